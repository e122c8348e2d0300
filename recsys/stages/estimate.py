"""What a teacher pass will cost, timed on a small sample before hours of it are started.

One task with the resources of one actor loads the teacher and ranks blocks of rows from all over the plan, larger from
block to block until a block is a shard or takes long enough to be timed; nothing is written. The rate is that of the
last block, so neither loading nor small batches count. Actors share nothing, so time falls in proportion to their
number until shards, of which an actor takes one at a time, are too few.
"""

import math
import time
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from recsys.settings import Settings
from recsys.signals.config import SignalsConfig
from recsys.signals.writer import ShardPlan
from recsys.stages.executor import Executor

_FIRST_BLOCK = 32
_ENOUGH_SECONDS = 5.0


@dataclass(frozen=True)
class Timing:
    """One actor's speed.

    Attributes:
        load_seconds: from nothing to a teacher that has ranked its first block.
        rows, seconds: of the block that counts.
        hardware: what it ran on.
    """

    load_seconds: float
    rows: int
    seconds: float
    hardware: str

    @property
    def rows_per_second(self) -> float:
        return self.rows / self.seconds


def run(settings: Settings, plan: ShardPlan, executor: Executor) -> list[str]:
    """Time a sample where an actor would run; the lines to print."""
    config = settings.signals
    cpus, gpus = config.resources
    sample = partial(time_sample, settings.layout.dataset, settings.layout.teacher, config, plan)
    timing = executor.call(sample, cpus=cpus, gpus=gpus, section="signals")
    return describe(timing, plan, config)


def describe(timing: Timing, plan: ShardPlan, config: SignalsConfig) -> list[str]:
    """Hours for some numbers of actors, the configured one among them."""
    device = "GPU" if config.gpus else "core"
    cpus, gpus = config.resources
    lines = [
        f"estimate: {timing.rows_per_second:,.1f} rows/s per actor ({timing.rows:,} rows in {timing.seconds:.1f} s "
        f"after {timing.load_seconds:.0f} s of loading), on {timing.hardware}",
        f"estimate: {len(plan.rows):,} rows in {len(plan)} shards",
        f"{'actors':>9} {'time':>12} {device + '-hours':>12}",
    ]
    for actors in sorted({1, 2, 4, 8, 16, 64, config.actors}):
        busiest = math.ceil(len(plan) / actors) * plan.rows_per_shard  # rows of the actor with most shards
        seconds = timing.load_seconds + min(busiest, len(plan.rows)) / timing.rows_per_second
        mark = "*" if actors == config.actors else " "
        spent = actors * (gpus or cpus) * seconds / 3600
        lines.append(f"{actors:>8}{mark} {duration(seconds):>12} {spent:>12.3g}")
        if actors >= len(plan) and actors >= config.actors:
            break
    return lines


def time_sample(dataset_uri: str, teacher_uri: str, config: SignalsConfig, plan: ShardPlan) -> Timing:
    """In a task with an actor's resources: how fast the teacher ranks here."""
    from recsys.environment import hardware
    from recsys.inference.replica import open_replica

    begun = time.perf_counter()
    replica = open_replica(dataset_uri, config)
    generator = np.random.default_rng(0)
    replica.rank(teacher_uri, _block(plan, _FIRST_BLOCK, generator))
    load_seconds = time.perf_counter() - begun
    size = _FIRST_BLOCK
    while True:
        rows = _block(plan, size, generator)
        started = time.perf_counter()
        replica.rank(teacher_uri, rows)
        seconds = time.perf_counter() - started
        if seconds >= _ENOUGH_SECONDS / 2 or len(rows) < size or size >= plan.rows_per_shard:
            replica.close()
            return Timing(load_seconds, len(rows), seconds, _describe(hardware(), config))
        # Never twice as long as wanted, whatever the first blocks were.
        size = min(plan.rows_per_shard, size * max(2, min(16, int(_ENOUGH_SECONDS / seconds))))


def _block(plan: ShardPlan, size: int, generator: np.random.Generator) -> np.ndarray:
    """Neighbouring rows, as a shard has them, from anywhere in the plan."""
    start = int(generator.integers(0, max(1, len(plan.rows) - size + 1)))
    return plan.rows[start : start + size]


def _describe(facts: dict[str, Any], config: SignalsConfig) -> str:
    threads = max(1, round(config.cpus))
    return facts["gpus"][0] if config.gpus else f"{threads} thread{'s' * (threads > 1)} of {facts['processor']}"


def duration(seconds: float) -> str:
    """For people: seconds, minutes or hours."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
