"""Our training loop against a plain PyTorch one, and what Ray costs and brings.

    python benchmarks/training.py [--quick] [--minutes N] [--data-dir D]

All sides train the same SASRec with the same softmax loss over the whole catalogue of MovieLens 100K, one thread a
process. The plain side is what published code does: every prefix of every sequence becomes a row, a batch is padded in
Python, and the model's answer after the last item is learned; ours learns every position of a window at once. An epoch
is the same for both: every training target once. The plain side is timed over as many batches as fit its share of the
time and scaled up. Sides take turns in rounds, and medians over the rounds are given.

Keys: `speedup_vs_plain`, `seconds_per_epoch` and `plain_seconds_per_epoch`; `ray_overhead`, the share by which
training on Ray Train with one worker takes longer than the same epochs in one process, start included, with
`ray_start_seconds`, the part of it that does not grow with the epochs; `ray_epoch_overhead`, the same share after the
start: from the end of the first epoch to that of the last, validation and checkpoints included; `two_worker_speedup` of
an epoch's training time; `peak_gb` of the one process; `load_at_start` and `load_at_end` of the machine. A `--quick`
run leaves Ray out (null).

Other loops on a larger data set: `benchmarks/beauty.py`.
"""

import os
import random
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from harness import Options, PeakMemory, main, progress, scratch
from torch.nn import functional

from recsys.config import digest
from recsys.data.prepare import prepare
from recsys.data.prepared import PreparedDataset
from recsys.histories import Histories
from recsys.losses.config import RecommendationLossConfig
from recsys.students.build import build_student
from recsys.students.config import SASRecConfig
from recsys.tracking import Run
from recsys.training.config import TrainingConfig
from recsys.training.loop import Progress, train_local
from recsys.training.objective import Objective

BATCH = 128
SHORT = 8  # epochs where only the time of one counts


@dataclass(frozen=True)
class Stopwatch(Run):
    """When each epoch ended; as a run, it is told by the driver of a training on Ray."""

    times: list[float] = field(default_factory=list)

    def press(self) -> None:
        self.times.append(time.monotonic())

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:  # noqa: ARG002
        self.press()

    @property
    def pace(self) -> float:
        """Seconds from epoch to epoch."""
        return (self.times[-1] - self.times[0]) / (len(self.times) - 1)


def body(options: Options) -> dict[str, Any]:
    load = os.getloadavg()[0]
    torch.set_num_threads(1)
    dataset = prepare(options.movielens(), "benchmark", report=progress)
    # As many as a student of the demo takes: the longer the training, the less Ray's start counts.
    epochs = 2 if options.quick else max(SHORT, min(30, int(3 * options.minutes)))
    with scratch() as folder:
        dataset.write(f"{folder}/dataset")
        make = partial(build, f"{folder}/dataset")
        rounds: list[dict[str, float]] = []
        while not rounds or (not options.quick and len(rounds) < 3 and options.seconds_left > 1.3 * rounds[-1]["all"]):
            rounds.append(run_round(dataset, make, epochs, folder, options, len(rounds)))
    medians = {name: median(one[name] for one in rounds) for name in rounds[0] if name != "all"}
    figures = {
        "speedup_vs_plain": medians["plain_seconds_per_epoch"] / medians["seconds_per_epoch"],
        **medians,
        "peak_gb": max(one["peak_gb"] for one in rounds),
        "load_at_start": load,
        "load_at_end": os.getloadavg()[0],
    }
    for name in ("ray_overhead", "ray_epoch_overhead", "ray_start_seconds", "two_worker_speedup"):
        figures.setdefault(name, None)
    facts = {"rounds": len(rounds), "epochs": epochs, "targets": len(dataset.rows("train")), "items": dataset.num_items}
    return {**{name: value and round(value, 4) for name, value in figures.items()}, **facts}


def run_round(
    dataset: PreparedDataset, make: Callable[[int], Any], epochs: int, folder: str, options: Options, number: int
) -> dict[str, float]:
    """Every side once."""
    begun = time.monotonic()
    progress(f"round {number + 1}: our loop")
    objective, _, training = make(epochs)
    with PeakMemory() as memory:
        watch, started = Stopwatch(), time.monotonic()
        ours = train_local(
            objective, dataset, training, Path(folder, f"local-{number}"), report=lambda _: watch.press()
        ).progress
        local_seconds = time.monotonic() - started
    figures = {"seconds_per_epoch": find_epoch_seconds(ours), "peak_gb": memory.gb}
    progress(f"round {number + 1}: plain loop")
    figures["plain_seconds_per_epoch"] = time_plain_epoch(dataset, 1 if options.quick else 30)
    if not options.quick:
        figures |= train_on_ray(make, epochs, folder, number, local_seconds, watch.pace)
    return {**figures, "all": time.monotonic() - begun}


def build(uri: str, epochs: int) -> tuple[Objective, PreparedDataset, TrainingConfig]:
    dataset = PreparedDataset.load(uri)
    objective = build_student(SASRecConfig(), dataset, loss=RecommendationLossConfig())
    return objective, dataset, TrainingConfig(epochs=epochs, batch_size=BATCH, patience=0)


def find_epoch_seconds(progress: Progress) -> float:
    """Median training time of an epoch, the first left out: it pays for first use."""
    return median(record["train_seconds"] for record in progress.curve[1:])


def time_plain_epoch(dataset: PreparedDataset, seconds: float) -> float:
    """The procedure of published code, for `seconds`, scaled up to all rows."""
    rows = []
    for row in dataset.rows("train").tolist():
        history = dataset.seen(row)[-dataset.max_history :].tolist()
        rows.append((history, int(dataset.items[row])))
    random.Random(0).shuffle(rows)
    torch.manual_seed(0)
    model = build_student(SASRecConfig(), dataset, loss=RecommendationLossConfig()).model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    started, learned = time.perf_counter(), 0
    for begin in range(0, len(rows), BATCH):
        batch = rows[begin : begin + BATCH]
        items = torch.tensor([history + [0] * (dataset.max_history - len(history)) for history, _ in batch])
        targets = torch.tensor([target for _, target in batch])
        loss = functional.cross_entropy(model.scores(Histories.of(items)), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        learned += len(batch)
        if time.perf_counter() - started > seconds:
            break
    return (time.perf_counter() - started) * len(rows) / learned


def train_on_ray(
    make: Callable[[int], Any], epochs: int, folder: str, number: int, local_seconds: float, local_pace: float
) -> dict[str, float]:
    """The same training through Ray Train with one worker and with two."""
    with tempfile.TemporaryDirectory(prefix="rb-", ignore_cleanup_errors=True) as temporary:  # short, for Unix sockets
        os.environ["RAY_TMPDIR"] = temporary
        import ray

        from ray_jobs.cluster import runtime
        from ray_jobs.training import train_runs
        from recsys.settings import WorkersConfig

        runtime.connect()
        try:
            curves, walls, watches = [], [], []
            for workers, length in ((1, epochs), (2, SHORT)):
                progress(f"round {number + 1}: Ray Train, {workers} worker(s)")
                watches.append(watch := Stopwatch())
                started = time.monotonic()
                checkpoint = train_runs.fit(
                    "benchmark",
                    partial(make, length),
                    training=make(length)[2],
                    scaling=WorkersConfig(workers=workers),
                    train_runs=f"{folder}/ray",
                    key=digest([number, workers]),
                    run=watch,
                )
                walls.append(time.monotonic() - started)
                curves.append(train_runs.load(checkpoint).progress)
        finally:
            ray.shutdown()
    worked = sum(record["train_seconds"] + record["valid_seconds"] for record in curves[0].curve)
    return {
        "ray_overhead": walls[0] / local_seconds - 1,
        "ray_epoch_overhead": watches[0].pace / local_pace - 1,
        "ray_start_seconds": walls[0] - worked,
        "two_worker_speedup": find_epoch_seconds(curves[0]) / find_epoch_seconds(curves[1]),
    }


if __name__ == "__main__":
    main(__doc__, body)
