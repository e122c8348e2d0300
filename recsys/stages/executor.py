"""Where the work of a stage runs: a stage says what is to be done, an executor where.

`InProcess` does everything here and now, with nothing but PyTorch; `ray_jobs.on_ray.OnRay` hands it to the
workers of a Ray cluster. Both do the same work on the same files, so either may continue what the other began.
"""

import shutil
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from recsys import storage
from recsys.data.prepare import LocalPartitions, Read
from recsys.data.prepared import PreparedDataset
from recsys.settings import WorkersConfig
from recsys.tracking import Run
from recsys.training.config import TrainingConfig
from recsys.training.loop import Epoch, Steps, TrainingResult, load_progress, train_local
from recsys.training.objective import Objective

if TYPE_CHECKING:
    from recsys.signals.writer import ShardPlan
    from recsys.stages.shards import ShardedWork

T = TypeVar("T")

Build = Callable[[], tuple[Objective, PreparedDataset, TrainingConfig]]
"""Builds the model with its losses, seeded, and loads the data; it runs in every process that trains."""

Trained = Callable[[], TrainingResult]
"""Reads what training left, on any node: the best epoch's weights and how training went."""


class Executor(Protocol):
    """What stages ask for."""

    def call(self, work: Callable[[], T], *, cpus: float, gpus: float, section: str, retry: bool = True) -> T:
        """Do a piece of work where there are that many cores and GPUs.

        Args:
            section: of the settings that say how many.
            retry: begin again where its process is lost.

        Raises:
            UserError: `work` raised it, or there will never be that many.
        """

    def call_all(
        self,
        works: Sequence[Callable[[], T]],
        *,
        cpus: float,
        gpus: float,
        section: str,
        done: Callable[[int, T], None] | None = None,
    ) -> list[T]:
        """The same for several pieces, in any order.

        Args:
            done: told the number and the result of each that is done.
        """

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
        """Train; what was interrupted continues.

        Args:
            name: what is trained, for the progress lines.
            train_runs: URI under which the resume state lies until `discard`.
            key: digest of the configuration and inputs.

        Raises:
            UserError: training diverged, or there will never be room for the workers.
        """

    def discard(self, name: str, *, train_runs: str, key: str) -> None:
        """Remove the resume state of what was trained and exported."""

    def rank(self, work: "ShardedWork", plan: "ShardPlan", missing: Sequence[int]) -> None:
        """Do the shards that are missing.

        Raises:
            UserError: a worker of it raised one, or there will never be room for one.
        """

    @property
    def read(self) -> Read:
        """Reads a log into partitions."""


class InProcess:
    """Everything in this process, one piece after the other.

    Args:
        watch: told of every epoch of a training once its state is kept; what it raises ends the training, which a later
            call continues.
        device: where models are trained.
    """

    read: Read = LocalPartitions.read

    def __init__(self, watch: Callable[[str, Epoch], None] | None = None, device: str = "cpu") -> None:
        self._watch, self._device = watch, device

    def call(
        self,
        work: Callable[[], T],
        *,
        cpus: float,  # noqa: ARG002
        gpus: float,  # noqa: ARG002
        section: str,  # noqa: ARG002
        retry: bool = True,  # noqa: ARG002
    ) -> T:
        return work()

    def call_all(
        self,
        works: Sequence[Callable[[], T]],
        *,
        cpus: float,  # noqa: ARG002
        gpus: float,  # noqa: ARG002
        section: str,  # noqa: ARG002
        done: Callable[[int, T], None] | None = None,
    ) -> list[T]:
        results = []
        for number, work in enumerate(works):
            results.append(work())
            if done:
                done(number, results[-1])
        return results

    def fit(
        self,
        name: str,
        build: Build,
        *,
        training: TrainingConfig,
        scaling: WorkersConfig,  # noqa: ARG002
        train_runs: str,
        key: str,
        run: Run,
        force: bool = False,
    ) -> Trained:
        if force:
            self.discard(name, train_runs=train_runs, key=key)
        objective, dataset, _ = build()
        directory = _state_folder(name, train_runs, key)

        def report(epoch: Epoch) -> None:
            print(epoch_line(name, training, epoch.number, epoch.metrics), flush=True)
            run.log_metrics(epoch.metrics, step=epoch.number)
            if self._watch:
                self._watch(name, epoch)

        def tell(steps: Steps) -> None:
            print(steps_line(name, training, steps), flush=True)

        train_local(objective, dataset, training, directory, report=report, tell=tell, device=self._device)
        return partial(load_progress, directory / "last")

    def discard(self, name: str, *, train_runs: str, key: str) -> None:
        shutil.rmtree(_state_folder(name, train_runs, key), ignore_errors=True)

    def rank(self, work: "ShardedWork", plan: "ShardPlan", missing: Sequence[int]) -> None:
        ranker = work.open()
        with work.progress(plan, missing) as advance:
            for number in missing:
                advance(ranker.rank(number))


def epoch_line(name: str, training: TrainingConfig, epoch: int, metrics: dict[str, Any]) -> str:
    """The progress line of an epoch."""
    metric = training.metric
    return (
        f"{name}: epoch {epoch}/{training.epochs}  loss {metrics['loss']:.4f}  "
        f"valid {metric} {metrics[f'valid_{metric}']:.4f}  {metrics['train_seconds']:.1f} s"
    )


def steps_line(name: str, training: TrainingConfig, steps: Steps) -> str:
    """The progress line within a long epoch."""
    return (
        f"{name}: epoch {steps.epoch}/{training.epochs}  step {steps.done:,} of {steps.total:,}, "
        f"{steps.tokens_per_second:,.0f} tokens/s, {steps.seconds_left:.0f} s left"
    )


def pace(say: Callable[[int, int], None], seconds: float = 4) -> Callable[[int, int], None]:
    """`say(done, total)` at most every `seconds`, and at the end."""
    last = time.monotonic()

    def progress(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last > seconds or done == total:
            last = time.monotonic()
            say(done, total)

    return progress


def say(line: str) -> None:
    print(line, flush=True)


def say_titles(who: str) -> Callable[[int, int], None]:
    """Progress of embedding titles, as lines."""
    return pace(lambda done, total: say(f"{who}: {done:,} of {total:,} titles embedded"))


def _state_folder(name: str, train_runs: str, key: str) -> Path:
    """Resume state lies on this machine's disk; under an object store's root nobody could continue it."""
    root = train_runs if "://" not in train_runs else "runs/train"
    return Path(storage.absolute(root), f"{name}-{key[:16]}-in-process")
