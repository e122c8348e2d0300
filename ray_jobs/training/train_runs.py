"""Training runs on Ray Train, the same for teachers and students.

A run is known by the key of its configuration and inputs: started again after a kill it continues from its last
checkpoint, started with another configuration it begins afresh. Workers load the data from storage; nothing else is
shared between nodes. Progress travels through a queue to the driver, which prints it and records it in MLflow.
"""

import logging
import os
import re
import tempfile
import threading
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from queue import Empty
from typing import Any

import ray
import ray.train
import torch
import torch.distributed as dist
from pyarrow.fs import FileSelector
from ray.train import (
    Checkpoint,
    CheckpointConfig,
    FailureConfig,
    LoggingConfig,
    RunConfig,
    ScalingConfig,
    UserCallback,
)
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util.queue import Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ray_jobs.cluster import runtime
from recsys import storage
from recsys.data.prepared import PreparedDataset
from recsys.errors import UnwritableError, UserError
from recsys.settings import WorkersConfig
from recsys.stages.executor import Build, epoch_line, steps_line
from recsys.tracking import Run
from recsys.training.config import TrainingConfig
from recsys.training.loop import Epoch, Steps, Tell, TrainingResult, load_progress, train
from recsys.training.objective import Objective

_SILENCE = 20.0  # seconds without a word after a failure; Ray Train waits for places in silence

Describe = Callable[[Objective, PreparedDataset, str], dict[str, Any]]
"""Runs in every worker before it trains, with its device."""


def load(checkpoint: Checkpoint) -> TrainingResult:
    """The result as of a checkpoint, on any node."""
    with checkpoint.as_directory() as directory:
        return load_progress(Path(directory))


def fit(
    name: str,
    build: Build,
    *,
    training: TrainingConfig,
    scaling: WorkersConfig,
    train_runs: str,
    key: str,
    run: Run,
    force: bool = False,
) -> Checkpoint:
    """Train on the cluster and return where the last epoch's state lies, the best epoch's weights in it.

    Args:
        name: what is trained, for the progress lines.
        train_runs: storage URI under which the resume state lies until `discard` removes it.
        key: digest of the configuration and inputs.

    Raises:
        UserError: training diverged, or the cluster can never give what the workers ask for.
    """
    check_room(scaling)
    folder = run_folder(name, key, training, scaling)
    if force:
        discard(name, train_runs=train_runs, key=key)
    left = _run_folders(name, key, train_runs)
    if left and folder not in left:
        print(f"{name}: DeepSpeed resumes only with as many workers as before; starting over", flush=True)
    # Where this process is; Ray puts an actor without cores on any node, and progress would be lost with that.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    queue: Queue = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})
    printer = threading.Thread(
        target=_follow, args=(queue, name, training, run, partial(_has_room, scaling)), daemon=True
    )
    printer.start()
    try:
        with runtime.own_signals():
            result: Any = build_trainer(
                folder,
                build,
                scaling=scaling,
                train_runs=train_runs,
                callback=_Report(queue),
                tell=partial(_tell, queue),
            ).fit()
    except SystemExit as end:
        if end.code:
            raise
        raise KeyboardInterrupt from None  # so Ray Train ends a process whose run Ctrl-C has ended
    finally:
        queue.put(None)
        printer.join(timeout=30)
        queue.shutdown()
    if result.return_value and result.return_value.get("error"):
        raise UserError(f"{name}: {result.return_value['error']}")
    assert result.checkpoint is not None, "a finished run has a checkpoint"
    return result.checkpoint


def build_trainer(
    folder: str,
    build: Build,
    *,
    scaling: WorkersConfig,
    train_runs: str,
    callback: UserCallback,
    describe: Describe | None = None,
    tell: Tell | None = None,
) -> TorchTrainer:
    """A Ray Train run that keeps its state in `folder` under `train_runs` and continues from what lies there.

    Args:
        callback: on the controller, told of every report; what it does not tell goes to Ray Train's log files.
        describe: what every report says beside its epoch.
        tell: called in the first worker within long epochs.
    """
    filesystem, path = storage.filesystem(train_runs)
    # Ray gives type checkers the signatures of Ray Train V1.
    work: Any = _work
    telling: dict[str, Any] = {"callbacks": [callback], "logging_config": LoggingConfig(log_level="ERROR")}
    return TorchTrainer(
        work,
        train_loop_config={
            "build": build,
            "describe": describe,
            "tell": tell,
            "threads": max(1, round(scaling.cpus)),
            "storage": train_runs,
        },
        torch_config=TorchConfig(backend="nccl" if scaling.gpus else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=scaling.workers,
            use_gpu=scaling.gpus > 0,
            resources_per_worker={"CPU": scaling.cpus, **({"GPU": scaling.gpus} if scaling.gpus else {})},
        ),
        run_config=RunConfig(
            name=folder,
            storage_path=path,
            storage_filesystem=filesystem,
            failure_config=FailureConfig(max_failures=scaling.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
            **telling,
        ),
    )


def run_folder(name: str, key: str, training: TrainingConfig, scaling: WorkersConfig) -> str:
    """Name of the folder with a run's resume state.

    DeepSpeed's is in as many parts as there are workers and cannot be read by another number of them: such a run begins
    afresh.
    """
    workers = f"-{scaling.workers}-workers" if training.deepspeed else ""
    return f"{name}-{key[:16]}{workers}"


def discard(name: str, *, train_runs: str, key: str) -> None:
    """Remove the resume state, of any number of workers, of a run whose checkpoint has been exported."""
    for folder in _run_folders(name, key, train_runs):
        storage.delete(storage.join(train_runs, folder))


def _run_folders(name: str, key: str, train_runs: str) -> list[str]:
    """The folders that a run left, whatever its number of workers was."""
    system, path = storage.filesystem(train_runs)
    form = re.compile(re.escape(f"{name}-{key[:16]}") + r"(-\d+-workers)?")
    found = system.get_file_info(FileSelector(path, allow_not_found=True))
    return [info.base_name for info in found if form.fullmatch(info.base_name)]


def _work(config: dict[str, Any]) -> dict[str, Any]:
    """One worker."""
    torch.set_num_threads(config["threads"])
    logging.getLogger().setLevel(logging.WARNING)  # a part of Ray Train tells every report through the root logger
    checkpoint = ray.train.get_checkpoint()
    try:
        objective, dataset, training = config["build"]()
        device, describe = ray.train.torch.get_device(), config["describe"]
        facts = describe(objective, dataset, str(device)) if describe else {}
        with checkpoint.as_directory() if checkpoint else nullcontext() as resume:
            train(
                objective,
                dataset,
                training,
                report=partial(_report, facts, config["storage"]),
                tell=config["tell"],
                resume=Path(resume) if resume else None,
                device=device,
            )
    except UserError as error:  # a restart would fail in the same way
        return {"error": str(error)}
    return {}


def _tell(queue: Queue, steps: Steps) -> None:
    queue.put(("steps", steps))


def _report(facts: dict[str, Any], uri: str, epoch: Epoch) -> None:
    with tempfile.TemporaryDirectory() as folder:
        _write_together(folder, lambda: epoch.save(Path(folder)))
        metrics = {**facts, **epoch.metrics, "epoch": epoch.number, "finished": epoch.finished}
        # Every worker reports every epoch; Ray merges the files of those that wrote some.
        checkpoint = Checkpoint.from_directory(folder) if os.listdir(folder) else None  # noqa: PTH208
        _write_together(uri, lambda: ray.train.report(metrics, checkpoint=checkpoint))


def _write_together(uri: str, write: Callable[[], None]) -> None:
    """Let every worker write; where one cannot, none goes on, or the others would wait for it."""
    refused: list[str | None] = [None]
    try:
        with storage.explain_unwritable(uri):
            write()
    except UnwritableError as error:
        refused = [str(error)]
    if dist.is_initialized():
        mine, refused = refused[0], [None] * dist.get_world_size()
        dist.all_gather_object(refused, mine)
    if problem := next(filter(None, refused), None):
        raise UnwritableError(problem)


class _Report(UserCallback):
    """On the controller: pass what rank 0 reported on to the driver."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Checkpoint | None) -> None:  # noqa: ARG002
        self._queue.put(("epoch", metrics[0]))

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:  # noqa: ARG002
        reason = "; ".join(f"worker {rank}: {_last_line(error)}" for rank, error in worker_exceptions.items())
        self._queue.put(("failure", reason))


def _has_room(scaling: WorkersConfig) -> bool:
    """Whether the nodes that are there can hold all workers."""
    return sum(runtime.places(node, scaling.cpus, scaling.gpus) for node in runtime.nodes()) >= scaling.workers


def _follow(queue: Queue, name: str, training: TrainingConfig, run: Run, has_room: Callable[[], bool]) -> None:
    """In the driver: print and record progress until the queue says None."""
    failed = False
    while True:
        try:
            message = queue.get(timeout=_SILENCE if failed else None)
        except Empty:
            if not has_room():
                print(f"{name}: waiting for a node with room for its workers", flush=True)
            continue
        if message is None:
            return
        kind, content = message
        failed = kind == "failure"
        if kind == "failure":
            print(f"{name}: {content}; restarting from the last checkpoint", flush=True)
            continue
        if kind == "steps":
            print(steps_line(name, training, content), flush=True)
            continue
        epoch = int(content["epoch"])
        run.log_metrics({k: v for k, v in content.items() if k not in ("epoch", "finished")}, step=epoch)
        print(epoch_line(name, training, epoch, content), flush=True)


def _last_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return (lines[-1] if lines else type(error).__name__)[:200]


def check_room(scaling: WorkersConfig) -> None:
    """Raise a `UserError` where the cluster can never give what the workers ask for."""
    what = f"each of {scaling.workers} workers" if scaling.workers > 1 else "a worker"
    lower = "scaling.workers, scaling.cpus or scaling.gpus"
    runtime.check_room(what, cpus=scaling.cpus, gpus=scaling.gpus, lower=lower, count=scaling.workers)
