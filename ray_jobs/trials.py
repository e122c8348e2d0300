"""The trials of a sweep on Ray Tune: function trainables in reused processes, on data that lies in memory once a node.

The driver reads the dataset and the teacher's signals and puts them into Ray's object store; a trial maps the arrays
into its process (zero-copy) instead of loading them. The same training loop as everywhere reports each epoch, and
the scheduler may end the trial there. `Ledger`, in the driver, writes what came of each trial as one file and one
MLflow run, and prints it. Ray Tune's own snapshots are not used: what a sweep knows are its records.
"""

import logging
import math
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import ray
import torch
from ray import tune
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler
from ray.tune.search import Searcher

from ray_jobs import distill
from ray_jobs.settings import Layout, StudentSettings
from recsys import storage
from recsys.data.prepared import PreparedDataset
from recsys.errors import UserError
from recsys.evaluation.latency import single_request_latency
from recsys.evaluation.ranking import model_scorer
from recsys.signals.signals import TeacherSignals
from recsys.training.loop import Epoch, train
from recsys.tuning.config import StoppingConfig, SweepConfig, candidate
from recsys.tuning.ledger import Ledger
from recsys.tuning.records import Record
from recsys.tuning.search import Search

_LATENCY_REQUESTS = 50
_QUALITY, _EPOCH = "quality", "training_iteration"


@dataclass(frozen=True)
class _SharedSignals(TeacherSignals):
    """Signals whose arrays lie in shared memory, the table of rows among them."""

    table: np.ndarray

    def lookup(self, total: int) -> np.ndarray:
        assert total == len(self.table)
        return self.table


@dataclass(frozen=True)
class _Inputs:
    """What all trials read. Tensors travel as arrays: these alone are mapped instead of copied."""

    dataset: PreparedDataset
    signals: TeacherSignals | None
    table: np.ndarray | None


def share(dataset: PreparedDataset, signals: TeacherSignals | None) -> "ray.ObjectRef[_Inputs]":
    """Put the data into the object store: once, whatever the number of trials; a node that needs it copies it once."""
    if signals is None:
        return ray.put(_Inputs(dataset, None, None))
    text = signals.text_embeddings
    arrays: Any = {
        "item_embeddings": signals.item_embeddings.numpy(),
        "text_embeddings": None if text is None else text.numpy(),
        "scores": signals.scores[:0],  # no student learns from them
    }
    return ray.put(_Inputs(dataset, replace(signals, **arrays), signals.lookup(len(dataset.items))))


@lru_cache(maxsize=1)
def _received(reference: "ray.ObjectRef[_Inputs]") -> tuple[PreparedDataset, TeacherSignals | None]:
    """In a trial's process: the shared data, unpacked once for all trials that run there."""
    # Ray's arrays are read-only, and nothing writes to data.
    warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
    inputs = ray.get(reference)
    if inputs.signals is None or inputs.table is None:
        return inputs.dataset, None
    fields = {**vars(inputs.signals)}
    for name in ("item_embeddings", "text_embeddings"):
        fields[name] = None if fields[name] is None else torch.from_numpy(fields[name])
    return inputs.dataset, _SharedSignals(**fields, table=inputs.table)


def room(config: SweepConfig) -> int:
    """How many trials run at a time: what the cluster has room for, or fewer where the configuration says so.

    Raises:
        UserError: there is not room for one.
    """
    have = ray.cluster_resources()
    places = [
        int(have.get(name, 0) / each + 1e-6) for name, each in (("CPU", config.cpus), ("GPU", config.gpus)) if each
    ]
    if not os.environ.get("RAY_ADDRESS"):  # an embedded Ray declares more cores than there are
        places.append(max(1, int(len(os.sched_getaffinity(0)) / config.cpus)))
    if min(places) < 1:
        raise UserError(
            f"a trial asks for {config.cpus:g} CPU and {config.gpus:g} GPU, but the cluster has {have.get('CPU', 0):g} "
            f"CPU and {have.get('GPU', 0):g} GPU; lower cpus or gpus of the space"
        )
    return min([*places, *([config.concurrent] if config.concurrent else [])])


def run_trials(
    config: SweepConfig,
    student: StudentSettings,
    inputs: "ray.ObjectRef[_Inputs]",
    search: Search,
    ledger: Ledger,
    *,
    layout: Layout,
    folder: str,
    count: int,
    concurrent: int,
    seconds: float | None,
) -> None:
    """Run up to `count` trials, `concurrent` at a time.

    Args:
        folder: URI that Ray Tune writes to; removed afterwards.
        seconds: time after which no trial starts and the running ones are stopped.
    """

    resources = {"CPU": config.cpus, **({"GPU": config.gpus} if config.gpus else {})}
    trial: Any = tune.with_parameters(
        _trial, student=student, inputs=[inputs], layout=layout, threads=max(1, round(config.cpus))
    )
    filesystem, path = storage.filesystem(folder)
    scheduler = _scheduler(config.stopping, student.training.epochs, ledger.records)
    with _quiet():
        try:
            tune.Tuner(
                tune.with_resources(trial, resources),
                tune_config=tune.TuneConfig(
                    search_alg=_Searcher(search, ledger),
                    scheduler=scheduler,
                    num_samples=count,
                    max_concurrent_trials=concurrent,
                    time_budget_s=seconds,
                    reuse_actors=True,
                    trial_name_creator=str,
                    trial_dirname_creator=lambda made: made.trial_id,
                ),
                run_config=tune.RunConfig(
                    name="trials",
                    storage_path=path,
                    storage_filesystem=filesystem,
                    verbose=0,
                    failure_config=tune.FailureConfig(max_failures=config.restarts),
                    callbacks=[_Follower(ledger)],
                ),
            ).fit()
        finally:
            storage.delete(folder)


def _trial(
    config: dict[str, Any], *, student: StudentSettings, inputs: list[Any], layout: Layout, threads: int
) -> None:
    """In a worker: train one student and report each epoch; what breaks it is reported as its reason."""
    torch.set_num_threads(threads)
    student = candidate(student, config["parameters"])
    training = student.training
    worker = f"{ray.get_runtime_context().get_node_id()[:8]}/{os.getpid()}"
    device = "cuda" if ray.get_gpu_ids() else "cpu"
    facts: dict[str, Any] = {"worker": worker}
    best = -math.inf

    def report(epoch: Epoch) -> None:
        nonlocal best
        best = max(best, epoch.metrics[f"valid_{training.metric}"])
        record = {"epoch": epoch.number, **epoch.metrics}
        tune.report({_QUALITY: best, "record": record, "finished": epoch.finished, **facts})

    try:
        dataset, signals = _received(inputs[0])
        objective = distill.assemble(student, dataset, signals, layout)
        facts["size"] = _size(objective.model)
        facts["latency_ms"] = _latency(objective.model.to(device), dataset, device)
        train(objective, dataset, training, report=report, device=device)
    except UserError as error:
        tune.report({"failed": str(error), **facts})
    except Exception as error:  # the sweep goes on, whatever it is
        tune.report({"failed": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}", **facts})


def _size(model: Any) -> int:
    """Numbers that the served model keeps."""
    return sum(tensor.numel() for tensor in model.export_state().values())


def _latency(model: Any, dataset: PreparedDataset, device: str) -> float:
    model.eval()
    with torch.inference_mode():
        timed = single_request_latency(
            {"trial": model_scorer(model)},
            dataset,
            dataset.rows("valid"),
            requests=_LATENCY_REQUESTS,
            device=device,
        )
    model.train()
    return timed["trial"]["median_ms"]


class _Searcher(Searcher):
    """`Search` as Ray Tune asks for it; what came of a trial is told by the ledger."""

    def __init__(self, search: Search, ledger: Ledger) -> None:
        super().__init__(metric=_QUALITY, mode="max")
        self._search, self._ledger = search, ledger

    def set_search_properties(self, *_: Any, **__: Any) -> bool:
        return True

    def suggest(self, trial_id: str) -> Any:  # noqa: ARG002
        parameters = self._search.ask()
        if parameters is None:
            return Searcher.FINISHED
        self._ledger.propose(parameters)
        return {"parameters": parameters}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing: see `_Follower`."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing is kept of a search but its records; Ray Tune wants a file."""
        open(checkpoint_path, "wb").close()  # noqa: PTH123


class _Follower(tune.Callback):
    """Passes on to the ledger what happens in Ray Tune."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    # Ray Tune names all arguments.
    def on_trial_start(self, *, trial: Any, **_: Any) -> None:  # type: ignore[override]
        self._ledger.start(trial.trial_id, trial.config["parameters"])

    def on_trial_result(self, *, trial: Any, result: dict[str, Any], **_: Any) -> None:  # type: ignore[override]
        self._ledger.result(trial.trial_id, result)

    def on_trial_complete(self, *, trial: Any, **_: Any) -> None:  # type: ignore[override]
        self._ledger.end(trial.trial_id)

    def on_trial_error(self, *, trial: Any, **_: Any) -> None:  # type: ignore[override]
        said = str(trial.get_error() or "").strip().splitlines()
        self._ledger.end(trial.trial_id, failure=said[-1][:300] if said else "its process was lost")

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self._ledger.tick()


@dataclass(frozen=True)
class _Former:
    """A trial of before, as a scheduler knows it."""

    trial_id: str


def _scheduler(config: StoppingConfig, epochs: int, records: Sequence[Record]) -> TrialScheduler:
    """Ray Tune's scheduler, told the curves of the trials that ended before."""
    grace = min(config.grace, epochs)
    metric: Any = {"metric": _QUALITY, "mode": "max", "time_attr": _EPOCH}
    if config.kind == "none":
        return FIFOScheduler()
    made: TrialScheduler
    if config.kind == "asha":
        made = AsyncHyperBandScheduler(
            grace_period=grace,
            max_t=epochs,
            reduction_factor=config.reduction,
            stop_last_trials=False,  # the last epoch ends a trial by itself
            **metric,
        )
    else:
        # A pause would lose what a trial has learned.
        made = MedianStoppingRule(grace_period=grace, min_time_slice=math.inf, **metric)  # type: ignore[arg-type]
    nobody: Any = None
    for record in records:
        if not record.curve:
            continue
        former: Any = _Former(record.digest)
        made.on_trial_add(nobody, former)
        best, result = -math.inf, {}
        for number, epoch in enumerate(record.curve, start=1):
            best = max(best, epoch[f"valid_{record.metric}"])
            result = {_QUALITY: best, _EPOCH: number}
            made.on_trial_result(nobody, former, result)
        made.on_trial_complete(nobody, former, result)
    return made


@contextmanager
def _quiet() -> Iterator[None]:
    """Ray Tune without its tables, loggers and snapshots: the ledger tells what matters."""
    wanted = {
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a trial that broke reports its reason alone
        "TUNE_GLOBAL_CHECKPOINT_S": str(10**9),
        "TUNE_DISABLE_SIGINT_HANDLER": "1",
        "RAY_AIR_NEW_OUTPUT": "0",
        "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    }
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    logger = logging.getLogger("ray.tune")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value
