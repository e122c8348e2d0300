"""Rows per second of the teacher's pass and of distillation over 1, 2 and 4 workers, and what Ray costs.

    python benchmarks/workers.py [--quick] [--minutes N]

Work per worker is held constant: n workers get n times the users, and steps of n times the windows, one thread a
worker. `in_process` is the same stage with the work of one worker in one process without Ray. What is measured is what
the jobs run (`ray_jobs.on_ray.OnRay` against `recsys.stages.executor.InProcess`), on made-up sequences, by an E4SRec
and a SASRec of their usual sizes with random weights: only time is asked for.

Four workers have two cores to share where there are no more. So that Ray's own cost shows all the same, both stages are
measured with *simulated* latency as well (`simulated_pass`, `simulated_distillation`): the teacher sleeps a millisecond
for every row in the place of computing; before each step of a very small student sleeps a teacher that would be asked
in it. Everything else (actors, shards read and written, gradients exchanged, checkpoints) is as it is.

Keys of each stage, by number of workers and `in_process`: `rows_per_second`, of all workers together, from the first
row to the last (of distillation: in epochs, validation and checkpoints not counted, the first epoch left out);
`seconds` of the whole, Ray being there; `start_seconds`, of the pass until the first row, of distillation all that was
neither training nor validation. `scaling` of n workers is their rows per second over n times those of one; `overhead`
is the share by which one worker on Ray takes longer for a row than `in_process`. `ray_start_seconds` is starting a
local Ray. `--quick` makes do with one worker on Ray, simulated.
"""

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from harness import Options, main, progress, scratch

from recsys.checkpoint import save_checkpoint
from recsys.config import digest
from recsys.data.prepared import Catalogue, PreparedDataset
from recsys.losses.config import DistillationConfig, RecommendationLossConfig
from recsys.settings import Settings, WorkersConfig
from recsys.signals.config import SignalsConfig
from recsys.signals.rankings import Rankings
from recsys.signals.signals import TeacherSignals
from recsys.signals.writer import ShardPlan
from recsys.stages import signals as signals_stage
from recsys.stages.executor import Executor, InProcess
from recsys.stages.shards import Counts, ShardedPass, ShardRanker, plan_shards
from recsys.students.build import build_student
from recsys.students.config import SASRecConfig
from recsys.teachers.config import E4SRecConfig
from recsys.teachers.e4srec import E4SRec
from recsys.tracking import Run
from recsys.training.config import TrainingConfig
from recsys.training.objective import Objective

WORKERS = (1, 2, 4)
CPUS = 0.5  # logical, so that four workers find a place on two cores with readers beside them; one thread each
LENGTH, ITEMS, K = 50, 2000, 20
ROW_SECONDS, STEP_SECONDS = 1e-3, 0.1  # simulated latency


@dataclass(frozen=True)
class Sizes:
    """Work of one worker."""

    users: int
    windows: int  # of a step
    epochs: int
    shard: int  # rows
    simulated_rows: int
    simulated_shard: int


FULL = Sizes(users=1000, windows=32, epochs=4, shard=4096, simulated_rows=8000, simulated_shard=500)
QUICK = Sizes(users=40, windows=8, epochs=2, shard=400, simulated_rows=400, simulated_shard=100)
Stage = dict[str, dict[str, float]]
"""Figures by number of workers, or `in_process`."""


@dataclass(frozen=True)
class Watched(ShardedPass):
    """A pass that notes what each shard took, in the order in which they were done.

    Attributes:
        row_seconds: simulated latency; 0 asks the teacher.
    """

    row_seconds: float = 0
    done: list[Counts] = field(default_factory=list)

    def open(self) -> ShardRanker:
        ranker = ShardRanker(self)
        if self.row_seconds:
            ranker._replica = Sleeper(self.row_seconds, self.config.k)
        return ranker

    @contextmanager
    def progress(self, plan: ShardPlan, missing: Sequence[int], workers: int = 1) -> Iterator[Callable[[Counts], None]]:  # noqa: ARG002
        yield self.done.append


@dataclass(frozen=True)
class Sleeper:
    """In the place of a replica with teachers: sleeps, and ranks the first items for every row."""

    row_seconds: float
    k: int

    def load(self, uri: str) -> None:
        pass

    def rank(self, uri: str, rows: np.ndarray) -> Rankings:  # noqa: ARG002
        time.sleep(len(rows) * self.row_seconds)
        items = np.tile(np.arange(1, self.k + 1, dtype=np.int32), (len(rows), 1))
        return Rankings(rows, items, -items.astype(np.float32), np.ones(len(rows), dtype=np.float32))

    def states(self, uri: str, rows: np.ndarray, layers: Sequence[int], dtype: str) -> Any:
        raise NotImplementedError

    def close(self) -> None:
        pass


def body(options: Options) -> dict[str, Any]:
    load = os.getloadavg()[0]
    sizes, workers = (QUICK, (1,)) if options.quick else (FULL, WORKERS)
    torch.set_num_threads(1)  # `in_process`
    stages: dict[str, Stage] = {"pass": {}, "distillation": {}, "simulated_pass": {}, "simulated_distillation": {}}
    with scratch() as folder:
        projects = {count: make_project(folder, count, sizes) for count in workers}
        measure(stages, "in_process", InProcess(), projects[1], 1, sizes, real=True)
        with start_ray() as (executor, ray_start_seconds):
            for count in workers:
                measure(stages, str(count), executor, projects[count], count, sizes, real=not options.quick)
    return {
        "ray_start_seconds": round(ray_start_seconds, 2),
        **stages,
        "overhead": {name: compute_overhead(stage) for name, stage in stages.items()},
        "scaling": {name: compute_scaling(stage) for name, stage in stages.items()},
        "rows_per_worker": sizes.users * (LENGTH - 1),
        "simulated_rows_per_worker": sizes.simulated_rows,
        "simulated_ms_per_row": 1000 * ROW_SECONDS,
        "simulated_ms_per_step": 1000 * STEP_SECONDS,
        "load_at_start": round(load, 2),
        "load_at_end": round(os.getloadavg()[0], 2),
    }


def make_project(folder: str, workers: int, sizes: Sizes) -> Settings:
    """Sequences for so many workers, and an untrained teacher of them."""
    settings = Settings(name=f"of-{workers}", storage=folder)
    dataset = make_dataset(sizes.users * workers)
    dataset.write(settings.layout.dataset)
    torch.manual_seed(0)
    teacher = E4SRec(E4SRecConfig(kind="e4srec"), num_items=ITEMS)
    teacher.ids[1:].normal_()
    save_checkpoint(settings.layout.teacher, teacher, dataset)
    return settings


def make_dataset(users: int) -> PreparedDataset:
    """Sequences of `LENGTH` items each, drawn alike."""
    ends = np.arange(1, users + 1, dtype=np.int64) * LENGTH
    place = np.arange(users * LENGTH) % LENGTH
    items = np.random.default_rng(0).integers(1, ITEMS + 1, users * LENGTH).astype(np.int32)
    train = np.flatnonzero((place > 0) & (place < LENGTH - 2))
    names = ["", *map(str, range(1, ITEMS + 1))]
    return PreparedDataset(
        name="workers",
        source={},
        protocol="leave_one_out",
        max_history=LENGTH,
        catalogue=Catalogue(names, names, np.bincount(items[place < LENGTH - 2], minlength=ITEMS + 1)),
        user_ids=[str(user) for user in range(users)],
        offsets=np.concatenate([[0], ends]),
        items=items,
        timestamps=np.arange(users * LENGTH, dtype=np.int64),
        split_rows={"train": train, "valid": ends - 2, "test": ends - 1},
    )


@contextmanager
def start_ray() -> Iterator[tuple[Executor, float]]:
    """A local Ray, and how many seconds it took until it was there."""
    with tempfile.TemporaryDirectory(prefix="rb-", ignore_cleanup_errors=True) as temporary:  # short, for Unix sockets
        os.environ["RAY_TMPDIR"] = temporary
        started = time.perf_counter()
        import ray

        from ray_jobs.cluster import runtime, shard_pool  # noqa: F401
        from ray_jobs.on_ray import OnRay
        from ray_jobs.training import train_runs  # noqa: F401

        runtime.connect()
        try:
            yield OnRay(), time.perf_counter() - started
        finally:
            ray.shutdown()


def measure(
    stages: dict[str, Stage],
    label: str,
    executor: Executor,
    settings: Settings,
    workers: int,
    sizes: Sizes,
    *,
    real: bool,
) -> None:
    """Every stage once; the simulated ones alone unless `real`."""
    for simulated in (False, True) if real else (True,):
        prefix = "simulated_" if simulated else ""
        for name, work in (("pass", measure_pass), ("distillation", measure_distillation)):
            progress(f"{label}: {prefix}{name}")
            found = work(label, executor, settings, workers, sizes, simulated)
            stages[f"{prefix}{name}"][label] = {figure: round(value, 2) for figure, value in found.items()}


def measure_pass(
    label: str, executor: Executor, settings: Settings, workers: int, sizes: Sizes, simulated: bool
) -> dict[str, float]:
    """The teacher's pass; that of the teacher itself leaves its signals for distillation."""
    layout = settings.layout
    config = SignalsConfig(
        k=K,
        dtype="fp32",
        actors=workers,
        cpus=CPUS,
        splits=("train",) if simulated else ("train", "valid", "test"),
        train_rows=workers * sizes.simulated_rows if simulated else None,
        rows_per_shard=sizes.simulated_shard if simulated else sizes.shard,
    )
    plan = plan_shards(config, PreparedDataset.load(layout.dataset))
    work = Watched(
        layout.dataset,
        [layout.teacher],
        layout.signals,
        digest([label, simulated]),
        config,
        None,
        row_seconds=ROW_SECONDS if simulated else 0,
    )
    started = time.time()
    executor.rank(work, plan, range(len(plan)))
    seconds = time.time() - started
    # The driver hears of a shard some time after it was written.
    written = sorted(path.stat().st_mtime for path in Path(work.writer.work, "rankings").glob("part-*.parquet"))
    begun = written[0] - work.done[0].seconds
    if not simulated:
        full = replace(settings, signals=config)
        signals_stage.finalise(full, plan, work.writer, seconds, len(plan.rows), None)
    return {
        "rows_per_second": len(plan.rows) / (written[-1] - begun),
        "seconds": seconds,
        "start_seconds": begun - started,
    }


def measure_distillation(
    label: str, executor: Executor, settings: Settings, workers: int, sizes: Sizes, simulated: bool
) -> dict[str, float]:
    layout = settings.layout
    training = TrainingConfig(epochs=sizes.epochs, batch_size=sizes.windows * workers, patience=0)
    started = time.perf_counter()
    trained = executor.fit(
        "student",
        partial(build, layout.dataset, layout.signals, training, simulated),
        training=training,
        scaling=WorkersConfig(workers=workers, cpus=CPUS, max_failures=0),
        train_runs=layout.train_runs,
        key=digest([label, simulated]),
        run=Run(),
    )
    seconds = time.perf_counter() - started
    curve = trained().progress.curve
    worked = sum(record["train_seconds"] + record["valid_seconds"] for record in curve)
    return {
        "rows_per_second": median(record["targets_per_second"] for record in curve[1:]),
        "seconds": seconds,
        "start_seconds": seconds - worked,
    }


def build(
    dataset_uri: str, signals_uri: str, training: TrainingConfig, simulated: bool
) -> tuple[Objective, PreparedDataset, TrainingConfig]:
    dataset = PreparedDataset.load(dataset_uri)
    objective = build_student(
        SASRecConfig(width=8, blocks=1, heads=1) if simulated else SASRecConfig(),
        dataset,
        loss=RecommendationLossConfig(),
        distillation=DistillationConfig(),
        signals=TeacherSignals.load(signals_uri, dataset),
    )
    if simulated:
        objective.register_forward_pre_hook(lambda *_: time.sleep(STEP_SECONDS))
    return objective, dataset, training


def compute_overhead(stage: Mapping[str, Mapping[str, float]]) -> float | None:
    """By which share one worker on Ray takes longer for a row than a process without Ray."""
    if "1" not in stage:
        return None
    return round(stage["in_process"]["rows_per_second"] / stage["1"]["rows_per_second"] - 1, 4)


def compute_scaling(stage: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Rows per second of n workers over n times those of one, by n."""
    return {
        count: round(stage[count]["rows_per_second"] / (int(count) * stage["1"]["rows_per_second"]), 3)
        for count in stage
        if count not in ("in_process", "1")
    }


if __name__ == "__main__":
    main(__doc__, body, minutes=6)
