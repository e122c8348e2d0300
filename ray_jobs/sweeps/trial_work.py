"""What a trial of a sweep does: train one student with the loop that trains every student, and report each epoch.

`run_alone` does so in the trial's own process, `run_with_workers` by a Ray Train run of its own. What breaks a trial is
reported as its reason, and the sweep goes on.
"""

import json
import math
import os
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray import tune
from ray.tune.integration.ray_train import TuneReportCallback
from safetensors.torch import save

from ray_jobs.sweeps.shared_inputs import receive
from ray_jobs.training import train_runs
from recsys import storage
from recsys.data.prepared import PreparedDataset
from recsys.errors import UserError
from recsys.evaluation.latency import time_single_requests
from recsys.evaluation.ranking import model_scorer
from recsys.settings import Layout, StudentSettings, WorkersConfig
from recsys.stages.student import assemble
from recsys.students.items import PROJECTOR
from recsys.training.config import TrainingConfig
from recsys.training.loop import Epoch, train
from recsys.training.objective import Objective
from recsys.tuning.config import candidate

QUALITY = "quality"  # the best value so far of the metric that selects
_FACTS = ("size", "latency_ms", "worker")
_LATENCY_REQUESTS = 50


def run_alone(
    config: dict[str, Any],
    *,
    student: StudentSettings,
    inputs: list[Any],
    layout: Layout,
    threads: int,
    keep: str = "",
    interval: int | None = None,
) -> None:
    """A trial in one process.

    Args:
        keep: URI of the folder for the weights of its best epoch, written whenever there is a better one, because a
            trial that is stopped does nothing more; "" keeps none.
        interval: after how many epochs its state is kept, for others of a population to go on from.
    """
    torch.set_num_threads(threads)
    device = "cuda" if ray.get_gpu_ids() else "cpu"
    best = -math.inf

    with _reasons():
        tried = candidate(student, config["parameters"])
        training = tried.training
        dataset, signals, states = receive(inputs[0])
        objective = assemble(tried, dataset, signals, layout, states)
        facts = describe(objective, dataset, device)

        def report(epoch: Epoch) -> None:
            nonlocal best
            if (value := epoch.metrics[f"valid_{training.metric}"]) > best:
                best = value
                if keep:
                    storage.write_bytes(_file(keep), save(epoch.export(), {QUALITY: repr(best)}))
            record = {"epoch": epoch.number, **epoch.metrics}
            told = {QUALITY: best, "record": record, "finished": epoch.finished, **facts}
            if interval is None or epoch.number % interval or epoch.finished:
                tune.report(told)
                return
            with tempfile.TemporaryDirectory() as kept:
                epoch.save(Path(kept))
                tune.report(told, checkpoint=tune.Checkpoint.from_directory(kept))

        checkpoint = tune.get_checkpoint()
        if checkpoint and keep:
            best = _read_kept_quality(_file(keep))
        with checkpoint.as_directory() if checkpoint else nullcontext() as resume:
            resumed = Path(resume) if resume else None
            train(objective, dataset, training, report=report, resume=resumed, device=device)


def run_with_workers(
    config: dict[str, Any],
    *,
    student: StudentSettings,
    inputs: list[Any],
    layout: Layout,
    scaling: WorkersConfig,
    folder: str,
    keep: str = "",
) -> None:
    """A trial of several workers; a lost one costs what came after the last epoch.

    Args:
        keep: as of `run_alone`.
        folder: URI under which the run keeps its state.
    """
    name = (
        f"{tune.get_context().get_trial_id()}-{uuid.uuid4().hex[:8]}"  # a trial that starts again starts from nothing
    )
    runs = storage.join(folder, "workers")
    with _reasons():
        tried = candidate(student, config["parameters"])
        trainer = train_runs.build_trainer(
            name,
            partial(_build, tried, inputs, layout),
            scaling=scaling,
            train_runs=runs,
            callback=_ToTune(tried.training.metric, _file(keep) if keep else ""),
            describe=describe,
        )
        result: Any = trainer.fit()
        storage.delete(storage.join(runs, name))
        if result.return_value and result.return_value.get("error"):
            raise UserError(result.return_value["error"])


def describe(objective: Objective, dataset: PreparedDataset, device: str) -> dict[str, Any]:
    """What is known of a trial before it trains: numbers that the served model keeps, its latency, where it runs."""
    model: Any = objective.model
    exported = model.export_state().items()
    size = sum(tensor.numel() for name, tensor in exported if not name.startswith(PROJECTOR))
    model.to(device).eval()
    with torch.inference_mode():
        timed = time_single_requests(
            {"trial": model_scorer(model)},
            dataset,
            dataset.rows("valid"),
            requests=_LATENCY_REQUESTS,
            device=device,
        )
    model.train()
    worker = f"{ray.get_runtime_context().get_node_id()[:8]}/{os.getpid()}"
    return dict(zip(_FACTS, (size, timed["trial"]["median_ms"], worker), strict=True))


def _build(
    student: StudentSettings, inputs: list[Any], layout: Layout
) -> tuple[Objective, PreparedDataset, TrainingConfig]:
    """In a worker of a Ray Train run."""
    dataset, signals, states = receive(inputs[0])
    return assemble(student, dataset, signals, layout, states), dataset, student.training


class _ToTune(TuneReportCallback):
    """On the controller of a Ray Train run: what rank 0 reports goes to the trial, in the form of `run_alone`.

    Args:
        file: URI for the weights of the best epoch, "" for none.
    """

    def __init__(self, metric: str, file: str) -> None:
        super().__init__()
        self._metric, self._file, self._best = metric, file, -math.inf

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        record = dict(metrics[0])
        facts = {name: record.pop(name) for name in _FACTS}
        finished = record.pop("finished")
        if (value := record[f"valid_{self._metric}"]) > self._best:
            self._best = value
            if self._file:
                with checkpoint.filesystem.open_input_stream(f"{checkpoint.path}/best.safetensors") as stream:
                    storage.write_bytes(self._file, stream.read())
        super().after_report(
            run_context, [{QUALITY: self._best, "record": record, "finished": finished, **facts}], None
        )


def _file(folder: str) -> str:
    """Of the weights of the trial that runs here."""
    return storage.join(folder, f"{tune.get_context().get_trial_id()}.safetensors")


def _read_kept_quality(uri: str) -> float:
    """Of the weights there: the best epoch of a member of a population may be one before it took another's weights."""
    if not storage.exists(uri):
        return -math.inf
    data = storage.read_bytes(uri)
    head = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return float(head["__metadata__"][QUALITY])


@contextmanager
def _reasons() -> Iterator[None]:
    """Report what breaks the block."""
    try:
        yield
    except UserError as error:
        tune.report({"failed": str(error)})
    except Exception as error:  # the sweep goes on, whatever it is
        tune.report({"failed": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"})
