"""Work over many rows, shard by shard, and the teacher's pass above all: what one worker does, and how it is told."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

import numpy as np

from recsys.data.prepared import PreparedDataset
from recsys.errors import UserError
from recsys.settings import Settings
from recsys.signals.config import SignalsConfig
from recsys.signals.row_choice import read_chosen
from recsys.signals.states import StatesMeta
from recsys.signals.writer import ShardPlan, SignalsWriter

if TYPE_CHECKING:
    from torch import Tensor

_HOPELESS = 1000  # rows without one finite prediction; a pass that goes on from such shards is let be


@dataclass(frozen=True)
class Counts:
    """Rows done, those of them set aside, tokens read, and how long the teacher took."""

    rows: int
    aside: int
    tokens: int
    seconds: float


class PoolConfig(Protocol):
    """How many actors share the shards, and what each asks for."""

    @property
    def actors(self) -> int: ...

    @property
    def max_actors(self) -> int | None: ...

    @property
    def resources(self) -> tuple[float, float]:
        """Cores and GPUs of an actor."""


class ShardWorker(Protocol):
    """What one actor of a pool is."""

    def rank(self, number: int) -> Counts:
        """Do a shard and write it."""


class ShardedWork:
    """Work in shards, small enough to travel to every worker.

    Attributes:
        section: of the settings that say how many actors there are; the lines that tell of the work begin with it.
        asks: settings of that section that say how much an actor asks for.
    """

    section: ClassVar[str]
    asks: ClassVar[tuple[str, ...]] = ("cpus", "gpus")
    config: PoolConfig

    def open(self) -> ShardWorker:
        """What does shards in this process."""
        raise NotImplementedError

    def missing(self, plan: ShardPlan) -> list[int]:
        """Numbers of the shards that are still to be done."""
        raise NotImplementedError

    @contextmanager
    def progress(self, plan: ShardPlan, missing: Sequence[int], workers: int = 1) -> Iterator[Callable[[Counts], None]]:
        """Print rows, rows and tokens per second and the time left, at least every five seconds.

        What it gives is called for every finished shard.

        Args:
            workers: that take a shard each at the same time.

        Raises:
            UserError: not one prediction of the first many rows was finite.
        """
        tally = Tally(self.section, plan.count(missing), workers, fresh=len(missing) == len(plan))
        with tally.tell():
            yield tally.add


@dataclass(frozen=True)
class ShardedPass(ShardedWork):
    """A teacher's pass, small enough to travel to every worker, which makes the plan of its rows anew.

    Attributes:
        teachers: URIs of the teacher, and of those trained without one of the folds.
        signals: URI of what is made.
        chosen: URI of the training rows to rank, where they are chosen (`recsys.stages.row_choice`).
    """

    section: ClassVar[str] = "signals"
    asks: ClassVar[tuple[str, ...]] = ("cpus", "gpus", "tensor_parallel")
    dataset: str
    teachers: list[str]
    signals: str
    key: str
    config: SignalsConfig
    states: StatesMeta | None
    chosen: str | None = None

    def open(self) -> "ShardRanker":
        return ShardRanker(self)

    def missing(self, plan: ShardPlan) -> list[int]:
        return self.writer.missing(plan)

    @property
    def writer(self) -> SignalsWriter:
        """What keeps its shards."""
        return SignalsWriter(self.signals, key=self.key, k=self.config.k)


def plan_shards(config: SignalsConfig, dataset: PreparedDataset, chosen: str | None = None) -> ShardPlan:
    """Rows by shard; `chosen` is the URI of training rows that were chosen, None takes a random sample as large."""
    assert config.rows_per_shard is not None, "filled in by `fill_open`"
    rows = read_chosen(chosen) if chosen else None
    return ShardPlan.of(dataset, config.splits, config.rows_per_shard, train_rows=config.train_rows, chosen=rows)


def teacher_uris(settings: Settings) -> list[str]:
    """The teacher, and those that were trained without one of the folds."""
    return [settings.layout.teacher, *(settings.layout.teacher_of_fold(f) for f in range(settings.teacher.folds))]


class ShardRanker:
    """Ranks the rows of a shard and writes it."""

    def __init__(self, work: ShardedPass) -> None:
        from recsys.inference.replica import open_replica

        self._states = work.states
        self._dataset = PreparedDataset.load(work.dataset)
        self._replica = open_replica(work.dataset, work.config, self._dataset)
        self._plan = plan_shards(work.config, self._dataset, work.chosen)
        self._writer = work.writer
        self._uris = work.teachers
        self._folds = len(work.teachers) - 1
        self._fold_of_user = self._dataset.folds(self._folds) if self._folds else None

    def rank(self, number: int) -> Counts:
        """Rank and write a shard.

        Raises:
            UserError: a teacher is of another dataset, or cannot be read or run so.
        """
        from recsys.signals.rankings import join_rankings

        rows = self._plan.shard(number)
        teacher_of_row = self._teacher_of(rows)
        parts, seconds = [], 0.0
        for teacher in np.unique(teacher_of_row).tolist():
            uri = self._uris[teacher]
            self._replica.load(uri)
            started = time.perf_counter()
            parts.append(self._replica.rank(uri, rows[teacher_of_row == teacher]))
            seconds += time.perf_counter() - started
        ranked = join_rankings(parts)
        aside = len(rows) - len(ranked.rows)
        self._writer.write_shard(
            number,
            ranked.rows,
            ranked.items,
            ranked.scores,
            ranked.target_distance,
            seconds=seconds,
            aside=aside,
            tokens=ranked.tokens,
            log_mass=ranked.log_mass,
            states=self._states_of(ranked.rows[np.isin(ranked.rows, self._dataset.rows("train"))]),
        )
        return Counts(len(rows), aside, ranked.tokens, seconds)

    def _states_of(self, rows: np.ndarray) -> tuple[np.ndarray, "Tensor"] | None:
        """Rows and their states, which are those of the teacher that students are cut from, whoever ranks the rows."""
        if self._states is None or not len(rows):
            return None
        return rows, self._replica.states(self._uris[0], rows, self._states.layers, self._states.dtype)

    def _teacher_of(self, rows: np.ndarray) -> np.ndarray:
        """Which teacher ranks each row: 0 is the one that knows all training rows, f+1 the one without fold f."""
        if self._fold_of_user is None:
            return np.zeros(len(rows), dtype=np.int64)
        fold = self._fold_of_user[self._dataset.users_of(rows)]
        return np.where(np.isin(rows, self._dataset.rows("train")), fold + 1, 0)


class Tally:
    """Counts of a pass, told as it goes.

    Args:
        total: rows.
        workers: that take a shard each at the same time.
        fresh: it begins with its first shard, so that a teacher without finite predictions is known for it.
    """

    def __init__(self, section: str, total: int, workers: int, *, fresh: bool) -> None:
        self._section, self._total, self._workers, self._fresh = section, total, workers, fresh
        self._begun = time.perf_counter()
        self._rows = self._aside = self._tokens = 0
        self._seconds = 0.0

    def add(self, counts: Counts) -> None:
        self._rows, self._aside = self._rows + counts.rows, self._aside + counts.aside
        self._tokens, self._seconds = self._tokens + counts.tokens, self._seconds + counts.seconds
        if self._fresh and self._aside == self._rows >= _HOPELESS:
            raise UserError(
                f"the teacher's prediction is not finite for all of the first {self._rows:,} rows; its checkpoint is "
                "not usable, train it again (or run infer_teacher again to see whether it is for others)"
            )

    @contextmanager
    def tell(self) -> Iterator[None]:
        closed = threading.Event()

        def tick() -> None:
            while not closed.wait(5):
                print(self.line(), flush=True)

        ticker = threading.Thread(target=tick, daemon=True)
        ticker.start()
        try:
            yield
        finally:
            closed.set()
            ticker.join()
        print(self.line(), flush=True)

    def line(self) -> str:
        """Rates are those of the teacher at work, all workers together: neither starting nor a shard that is half done
        counts, so few shards are told as truly as many."""
        said = f"{self._section}: {self._rows:,} of {self._total:,} rows"
        if not self._seconds:
            return f"{said}, {time.perf_counter() - self._begun:.0f} s"
        rate = self._rows * self._workers / self._seconds
        read = f" {_rate(rate * self._tokens / self._rows)} tokens/s," if self._tokens else ""
        return f"{said}, {_rate(rate)} rows/s,{read} {(self._total - self._rows) / rate:.0f} s left"


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"
