"""The trials of a sweep on Ray Tune: function trainables in reused processes.

What a trial does is in `trial_work`, on data that `shared_inputs` keeps in memory once a node. It reports each epoch,
and the scheduler may end it there. `Ledger`, in the driver, writes what came of each trial as one file and one MLflow
run, and prints it. Ray Tune's own snapshots are not used: what a sweep knows are its records.
"""

import logging
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler
from ray.tune.search import Searcher
from ray.tune.utils import flatten_dict

from ray_jobs.cluster import runtime
from ray_jobs.sweeps import trial_work
from ray_jobs.sweeps.population import RECORDED_EPOCH, Population
from ray_jobs.sweeps.shared_inputs import Inputs
from ray_jobs.sweeps.trial_work import QUALITY
from recsys import storage
from recsys.errors import UserError
from recsys.settings import Layout, StudentSettings, WorkersConfig
from recsys.tuning.config import StoppingConfig, SweepConfig
from recsys.tuning.ledger import Ledger
from recsys.tuning.records import Record
from recsys.tuning.search import Search

_EPOCH = "training_iteration"


def room(config: SweepConfig) -> int:
    """How many trials run at a time: what the cluster has room for, or fewer where the configuration says so.

    Raises:
        UserError: there is not room for one.
    """
    nodes = runtime.nodes()
    # A process, a trial or one of its workers, lies on one node.
    places = sum(runtime.places(node, config.cpus, config.gpus) for node in nodes) // config.workers
    if os.environ.get("RECSYS_AUTOSCALING") == "1":  # what there is now is not all
        return config.concurrent or max(1, places)
    if places < 1:
        asked = f"{config.cpus:g} CPU and {config.gpus:g} GPU"
        each = f"has {config.workers} workers that each ask for" if config.workers > 1 else "asks for"
        kinds = dict.fromkeys(f"{node.get('CPU', 0):g} CPU and {node.get('GPU', 0):g} GPU" for node in nodes)
        have = ", ".join(kinds) or "nothing"
        lower = "workers, cpus or gpus" if config.workers > 1 else "cpus or gpus"
        raise UserError(
            f"a trial {each} {asked} on one node, but the cluster's nodes have: {have}; lower {lower} of the space "
            "(on a cluster that grows by itself set RECSYS_AUTOSCALING=1)"
        )
    most = [places, *([config.concurrent] if config.concurrent else [])]
    if not os.environ.get("RAY_ADDRESS"):  # an embedded Ray declares more cores than there are
        most.append(max(1, int(len(os.sched_getaffinity(0)) / (config.workers * config.cpus))))
    return min(most)


def _share(config: SweepConfig, concurrent: int) -> float:
    """CPUs that each of a population asks for, so that `concurrent` of them fill the cluster.

    All of a population are begun, and Ray Tune runs as many as there is room for. None asks for more than a node has:
    on more nodes than `concurrent` as many run.
    """
    able = [node["CPU"] for node in runtime.nodes() if runtime.places(node, config.cpus, config.gpus)]
    share = math.floor(1e4 * sum(able) / concurrent) / 1e4  # Ray rounds to four decimals: up would be too much
    return max(config.cpus, min(share, max(able, default=share)))


def weights(folder: str) -> str:
    """Where trials leave the weights of their best epoch, `<trial>.safetensors`, in the folder of `run_trials`."""
    return storage.join(folder, "weights")


def run_trials(
    config: SweepConfig,
    student: StudentSettings,
    inputs: "ray.ObjectRef[Inputs]",
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

    given: dict[str, Any] = {"student": student, "inputs": [inputs], "layout": layout}
    given["keep"] = weights(folder) if config.keep_checkpoints else ""
    if config.workers == 1:
        resources = {"CPU": config.cpus, **({"GPU": config.gpus} if config.gpus else {})}
        given["threads"] = max(1, round(config.cpus))
        if config.search == "population":
            given["interval"] = config.population.interval
            resources["CPU"] = _share(config, concurrent)
        trial: Any = tune.with_parameters(trial_work.alone, **given)
    else:
        # The trial itself only waits. What its workers ask for is reserved by Ray Train, all of it or nothing, so that
        # no two trials wait for each other, and `room` lets no more begin than fit. Ray Tune wants a trial to hold
        # something.
        resources = {"memory": 1}
        scaling = WorkersConfig(
            workers=config.workers, cpus=config.cpus, gpus=config.gpus, max_failures=config.restarts
        )
        trial = tune.with_parameters(trial_work.with_workers, **given, scaling=scaling, folder=folder)
    filesystem, path = storage.filesystem(folder)
    how: dict[str, Any] = {
        "search_alg": _Searcher(search, ledger),
        "scheduler": _scheduler(config.stopping, student.training.epochs, ledger.records),
        "num_samples": count,
        "max_concurrent_trials": concurrent,
    }
    space: dict[str, Any] = {}
    if config.search == "population":  # Ray Tune wants all of it at once, not one by one
        how = {"scheduler": Population(config, student.training.metric, ledger)}
        members = [parameters for _ in range(count) if (parameters := search.ask())]
        if not members:
            return
        for parameters in members:
            ledger.propose(parameters)
        space = {"parameters": tune.grid_search(members)}
    with _quiet():
        try:
            tune.Tuner(
                tune.with_resources(trial, resources),
                param_space=space,
                tune_config=tune.TuneConfig(
                    **how,
                    time_budget_s=seconds,
                    reuse_actors=config.workers == 1,  # a Ray Train run ends with the process that started it
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
            if ledger.late:  # Ray Tune ends its trials without a word
                ledger.cut()
        finally:
            storage.delete(folder)


class _Searcher(Searcher):
    """`Search` as Ray Tune asks for it; what came of a trial is told by the ledger."""

    def __init__(self, search: Search, ledger: Ledger) -> None:
        super().__init__(metric=QUALITY, mode="max")
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

    def on_trial_recover(self, *, trial: Any, **_: Any) -> None:  # type: ignore[override]
        self.on_trial_start(trial=trial)  # what is lost on its way up is news
        kept = trial.latest_checkpoint_result
        epoch = int(flatten_dict(kept.metrics).get(RECORDED_EPOCH, 0)) if kept else 0
        self._ledger.lost(trial.trial_id, _why_lost(trial), epoch)

    def on_trial_error(self, *, trial: Any, **_: Any) -> None:  # type: ignore[override]
        self.on_trial_start(trial=trial)
        self._ledger.end(trial.trial_id, failure=_why_lost(trial))

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self._ledger.tick()


_LOST = {
    "low on memory": "its process was ended because its node had no memory left",
    "node has died": "its node was lost",
    "worker process has died": "its process was killed or crashed (the system's log says whether for want of memory)",
}


def _why_lost(trial: Any) -> str:
    """What Ray says of the end of a trial's process, in a line."""
    file = Path(trial.error_file or "")
    said = file.read_text().strip().rpartition("Failure #")[2] if file.is_file() else ""
    for sign, reason in _LOST.items():
        if sign in said:
            return reason
    return said.splitlines()[-1][:300] if said else "its process was lost"


@dataclass(frozen=True)
class _Former:
    """A trial of before, as a scheduler knows it."""

    trial_id: str


class _MedianRule(MedianStoppingRule):
    """Ray Tune's takes the mean over the last report too of a trial that broke, which has no quality."""

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        if QUALITY in result:
            super().on_trial_complete(tune_controller, trial, result)


def _scheduler(config: StoppingConfig, epochs: int, records: Sequence[Record]) -> TrialScheduler:
    """Ray Tune's scheduler, told the curves of the trials that ended before."""
    grace = min(config.grace, epochs)
    metric: Any = {"metric": QUALITY, "mode": "max", "time_attr": _EPOCH}
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
        made = _MedianRule(grace_period=grace, min_time_slice=math.inf, **metric)  # type: ignore[arg-type]
    nobody: Any = None
    for record in records:
        if not record.curve:
            continue
        former: Any = _Former(record.digest)
        made.on_trial_add(nobody, former)
        best, result = -math.inf, {}
        for number, epoch in enumerate(record.curve, start=1):
            best = max(best, epoch[f"valid_{record.metric}"])
            result = {QUALITY: best, _EPOCH: number}
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
