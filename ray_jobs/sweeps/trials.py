"""The trials of a sweep on Ray Tune: function trainables in reused processes.

What a trial does is in `trial_work`, on data that `shared_inputs` keeps in memory once per node. It reports each epoch,
and the scheduler may end it there. `Ledger`, in the driver, writes what came of each trial as one file and one MLflow
run, and prints it. Ray Tune's own snapshots are not used: what a sweep knows are its records.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray import tune
from ray.tune.search import Searcher

from ray_jobs.sweeps import trial_work
from ray_jobs.sweeps.follower import Follower
from ray_jobs.sweeps.population import Population
from ray_jobs.sweeps.room import share
from ray_jobs.sweeps.shared_inputs import Inputs
from ray_jobs.sweeps.stopping import build_scheduler
from ray_jobs.sweeps.trial_work import QUALITY
from recsys import storage
from recsys.settings import Layout, StudentSettings, WorkersConfig
from recsys.tuning.config import SweepConfig
from recsys.tuning.ledger import Ledger
from recsys.tuning.search import Search


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
            resources["CPU"] = share(config, concurrent)
        trial: Any = tune.with_parameters(trial_work.run_alone, **given)
    else:
        # The trial itself only waits. What its workers ask for is reserved by Ray Train, all of it or nothing, so that
        # no two trials wait for each other, and `count_places` lets no more begin than fit. Ray Tune wants a trial to
        # hold something.
        resources = {"memory": 1}
        scaling = WorkersConfig(
            workers=config.workers, cpus=config.cpus, gpus=config.gpus, max_failures=config.restarts
        )
        trial = tune.with_parameters(trial_work.run_with_workers, **given, scaling=scaling, folder=folder)
    filesystem, path = storage.filesystem(folder)
    how: dict[str, Any] = {
        "search_alg": _Searcher(search, ledger),
        "scheduler": build_scheduler(config.stopping, student.training.epochs, ledger.records),
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
    with _silence_tune():
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
                    callbacks=[Follower(ledger)],
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
        """Nothing: see `Follower`."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing is kept of a search but its records; Ray Tune wants a file."""
        open(checkpoint_path, "wb").close()  # noqa: PTH123


@contextmanager
def _silence_tune() -> Iterator[None]:
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
