"""Stages on a Ray cluster: the one a job was submitted to, or an embedded local one.

Ray is joined when the first work comes: where all is finished and unchanged, none is started.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from recsys.data.prepare import Partitions
from recsys.data.readers.log import InteractionLog
from recsys.errors import UserError
from recsys.settings import WorkersConfig
from recsys.stages.executor import Build, Trained
from recsys.tracking import Run
from recsys.training.config import TrainingConfig

if TYPE_CHECKING:
    from recsys.signals.writer import ShardPlan
    from recsys.stages.shards import ShardedWork

T = TypeVar("T")


class OnRay:
    """`recsys.stages.executor.Executor` by Ray tasks, Ray Train and Ray Data."""

    def call(self, work: Callable[[], T], *, cpus: float, gpus: float, section: str, retry: bool = True) -> T:
        task = _task(section, cpus, gpus, retries=3 if retry else 0)
        from ray_jobs.cluster import runtime

        done: T = runtime.get_result(task.remote(work, cpus))
        return done

    def call_all(
        self,
        works: Sequence[Callable[[], T]],
        *,
        cpus: float,
        gpus: float,
        section: str,
        done: Callable[[int, T], None] | None = None,
    ) -> list[T]:
        task = _task(section, cpus, gpus)
        import ray

        from ray_jobs.cluster import runtime

        pending = {task.remote(work, cpus): number for number, work in enumerate(works)}
        results: dict[int, T] = {}
        started = time.monotonic()
        while pending:
            ready, _ = ray.wait(list(pending), timeout=5)
            try:
                for reference in ready:
                    number = pending.pop(reference)
                    results[number] = runtime.get_result(reference)
                    if done:
                        done(number, results[number])
            except UserError:
                for reference in pending:
                    ray.cancel(reference)
                raise
            if pending and not ready:
                waited = time.monotonic() - started
                print(f"{section}: {len(pending)} of {len(works)} left, {waited:.0f} s", flush=True)
        return [results[number] for number in range(len(works))]

    def fit(
        self,
        name: str,
        build: Build,
        *,
        training: TrainingConfig,
        scaling: WorkersConfig,
        train_runs: str,
        key: str,
        run: Run,
        force: bool = False,
    ) -> Trained:
        from ray_jobs.cluster import runtime
        from ray_jobs.training import train_runs as runs

        runtime.connect()
        checkpoint = runs.fit(
            name, build, training=training, scaling=scaling, train_runs=train_runs, key=key, run=run, force=force
        )
        return partial(runs.load, checkpoint)

    def discard(self, name: str, *, train_runs: str, key: str) -> None:
        from ray_jobs.training import train_runs as runs

        runs.discard(name, train_runs=train_runs, key=key)

    def rank(self, work: "ShardedWork", plan: "ShardPlan", missing: Sequence[int]) -> None:
        from ray_jobs.cluster import runtime, shard_pool

        runtime.connect()
        shard_pool.check_room(work)
        shard_pool.rank_until_whole(work, plan, missing)

    def read(self, log: InteractionLog) -> Partitions:
        from ray_jobs.cluster import runtime
        from ray_jobs.cluster.partitions import RayPartitions

        runtime.connect()
        return RayPartitions.read(log)


def _task(section: str, cpus: float, gpus: float, *, retries: int = 3) -> Any:
    """A Ray task with these cores and GPUs that does what it is given.

    Raises:
        UserError: no node has that many.
    """
    import ray

    from ray_jobs.cluster import runtime

    runtime.connect()
    lower = f"{section}.cpus or {section}.gpus"
    runtime.check_room(f"a task of {section}", cpus=cpus, gpus=gpus, lower=lower)
    return ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=retries)(_call)


def _call(work: Callable[[], T], cpus: float) -> T:
    import torch

    torch.set_num_threads(max(1, round(cpus)))  # Ray gives cores by a number alone
    return work()
