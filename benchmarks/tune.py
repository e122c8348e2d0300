"""What a sweep costs beside training, and whether its trials share their data.

    python benchmarks/tune.py [--quick] [--minutes N] [--data-dir D] [--trials 12] [--gigabytes 1]

Overhead: a sweep of the undistilled SASRec over the space `student-baseline` on MovieLens 100K, asynchronous halving,
one trial per core, tracking in SQLite; Ray's start, the processes' imports and the report are part of it. Memory:
made-up data and teacher signals of `--gigabytes` are put into the object store once; the peak of all processes
(each shared page counted once) with two trials at a time is compared with that of one at a time, each on its own Ray.

Keys: `overhead_share`, of the places for trials times the sweep's seconds, what was not training or validation;
`trial_start_seconds`, what a trial takes beside its epochs, median of those after the first of their process, and
`first_start_seconds`; `epochs_share` of what all trials to their end would take; `memory_ratio_two_trials`, with
`one_trial_gb`, `two_trials_gb` and `shared_gb`. A `--quick` run leaves memory out (null).
"""

import argparse
import math
import os
import pickle
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

import numpy as np
import torch
from harness import Options, PeakMemory, main, progress, scratch

from recsys.config import digest, from_dict
from recsys.data.prepare import prepare
from recsys.data.prepared import Catalogue, PreparedDataset
from recsys.settings import Layout, Settings, StudentSettings
from recsys.signals.signals import SignalsMeta, TeacherSignals
from recsys.tuning.config import SweepConfig
from recsys.tuning.records import Record

K, HISTORY, ITEMS = 20, 50, 1000
LENGTH = 100  # interactions of a made-up user


def body(options: Options) -> dict[str, Any]:
    torch.set_num_threads(1)
    cores = len(os.sched_getaffinity(0))
    gigabytes = 0.0 if options.quick else options.args.gigabytes
    with scratch() as folder:
        settings = make_project(options, folder)
        started = time.monotonic()
        with start_ray(cores, gigabytes):
            figures: dict[str, Any] = measure_overhead(options, settings, cores, started)
        peaks = []
        for trials in () if options.quick else (1, 2):
            with start_ray(2, gigabytes):
                peaks.append(measure_memory(gigabytes, trials, folder))
    memories: dict[str, Any] = dict.fromkeys(("memory_ratio_two_trials", "one_trial_gb", "two_trials_gb", "shared_gb"))
    if peaks:
        (one, shared), (two, _) = peaks
        memories = dict(zip(memories, (two / one, one, two, shared), strict=True))
    return {name: value and round(value, 4) for name, value in (figures | memories).items()}


@contextmanager
def start_ray(cores: int, gigabytes: float) -> Iterator[None]:
    """A private Ray with room for the data."""
    with tempfile.TemporaryDirectory(prefix="rb-", ignore_cleanup_errors=True) as temporary:  # short, for Unix sockets
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")
        import ray

        store = int(max(0.2, 1.5 * gigabytes) * 1e9)
        ray.init(
            num_cpus=cores,
            include_dashboard=False,
            object_store_memory=store,
            logging_level="WARNING",
            _temp_dir=temporary,
        )
        try:
            yield
        finally:
            ray.shutdown()


def make_project(options: Options, folder: str) -> Settings:
    """A prepared dataset and a student."""
    epochs = 2 if options.quick else 25
    training = {"epochs": epochs, "batch_size": 32, "schedule": "cosine", "patience": 0}
    values = {
        "name": "sweep",
        "storage": folder,
        "students": {"sasrec": {"model": {"kind": "sasrec"}, "training": training}},
        "tracking": {"uri": "none"} if options.quick else {},
    }
    settings = from_dict(Settings, values)
    prepare(options.movielens(max_history=10), "benchmark", report=progress).write(settings.layout.dataset)
    return settings


def measure_overhead(options: Options, settings: Settings, cores: int, started: float) -> dict[str, float]:
    """A whole sweep, timed from outside, from `started` on."""
    from ray_jobs.sweeps import search

    epochs = settings.students["sasrec"].training.epochs
    trials = 3 if options.quick else options.args.trials
    name, space = search.load_space("student-baseline", trials=trials, minutes=0.6 * options.minutes, retrain=0)
    records = search.run(settings, name, space)
    seconds = time.monotonic() - started
    spent = sum(record.train_seconds for record in records)
    first, later = time_starts(records)
    return {
        "overhead_share": 1 - spent / (min(cores, trials) * seconds),
        "sweep_seconds": seconds,
        "trials": len(records),
        "trial_start_seconds": median(later or [0.0]),
        "first_start_seconds": median(first),
        "epochs_share": sum(record.epochs for record in records) / (len(records) * epochs),
    }


def time_starts(records: list[Record]) -> tuple[list[float], list[float]]:
    """Seconds beside training of trials that were the first of their process, and of the others."""
    first: dict[str, Record] = {}
    for record in sorted(records, key=lambda r: r.elapsed - r.seconds):
        first.setdefault(record.worker, record)
    beside = {record.number: record.seconds - record.train_seconds for record in records}
    pioneers = {record.number for record in first.values()}
    return [beside[n] for n in beside if n in pioneers], [beside[n] for n in beside if n not in pioneers]


def measure_memory(gigabytes: float, trials: int, folder: str) -> tuple[float, float]:
    """Peak GB of everything with this many trials at a time, and the GB that they share."""
    from ray_jobs.sweeps import shared_inputs
    from ray_jobs.sweeps import trials as jobs
    from recsys.tracking import Run
    from recsys.tuning.ledger import Ledger
    from recsys.tuning.records import TrialStore
    from recsys.tuning.search import Search

    values = {
        "model": {"kind": "sasrec", "width": 8, "blocks": 1, "heads": 1},
        "distillation": {"ranking": {"k": K}, "embedding": None},
        "training": {"epochs": 2, "patience": 0},
    }
    student = from_dict(StudentSettings, values)
    space = {"distillation.ranking.weight": {"kind": "uniform", "low": 0, "high": 1}}
    config = from_dict(SweepConfig, {"student": "s", "parameters": space, "trials": 2, "stopping": {"kind": "none"}})
    few, more = 2500 * LENGTH, 5000 * LENGTH  # beyond the users who are learned from
    start, end = count_shared_bytes(make_dataset(few)), count_shared_bytes(make_dataset(more))
    dataset = make_dataset(few + math.ceil((gigabytes * 1e9 - start) * (more - few) / (end - start)))
    shared = count_shared_bytes(dataset)
    inputs = shared_inputs.share(dataset, make_signals(dataset))
    del dataset
    search = Search(config, digest)
    ledger = Ledger(
        TrialStore(f"{folder}/memory-{trials}"),
        search,
        digest=digest,
        metric=student.training.metric,
        epochs=student.training.epochs,
        trials=2,
        records=[],
        interrupted=[],
        open_run=lambda _: Run(),
    )
    with PeakMemory() as peak:
        jobs.run_trials(
            config,
            student,
            inputs,
            search,
            ledger,
            layout=Layout(folder, "memory"),
            folder=f"{folder}/tune",
            count=2,
            concurrent=trials,
            seconds=None,
        )
    failed = [record.reason for record in ledger.records if record.status != "finished"]
    assert not failed, failed
    return peak.gb, shared / 1e9


def count_shared_bytes(dataset: PreparedDataset) -> int:
    """What processes map instead of copying: the arrays of data and signals."""
    from ray_jobs.sweeps import shared_inputs

    arrays: list[pickle.PickleBuffer] = []
    pickle.dumps(shared_inputs.gather(dataset, make_signals(dataset)), protocol=5, buffer_callback=arrays.append)
    return sum(array.raw().nbytes for array in arrays)


def make_dataset(interactions: int) -> PreparedDataset:
    """Random sequences, all known to the teacher, a few of them to learn from: what counts here is their size."""
    users = interactions // LENGTH
    generator = np.random.default_rng(0)
    offsets = np.arange(users + 1, dtype=np.int64) * LENGTH
    rows = np.setdiff1d(np.arange(users * LENGTH), offsets)
    few = offsets[1 : 1 + min(users, 2000)]
    return PreparedDataset(
        name="made up",
        source={},
        protocol="leave_one_out",
        max_history=HISTORY,
        catalogue=Catalogue(
            item_ids=["", *map(str, range(1, ITEMS + 1))],
            titles=[""] * (ITEMS + 1),
            train_counts=np.ones(ITEMS + 1, dtype=np.int64),
        ),
        user_ids=[""] * users,
        offsets=offsets,
        items=generator.integers(1, ITEMS + 1, users * LENGTH, dtype=np.int32),
        timestamps=np.arange(users * LENGTH, dtype=np.int64),
        split_rows={"train": rows[rows < few[-1]], "valid": few - 1, "test": rows},
        fingerprint="made up",
    )


def make_signals(dataset: PreparedDataset) -> TeacherSignals:
    rows = dataset.rows("test")
    generator = np.random.default_rng(1)
    return TeacherSignals(
        meta=SignalsMeta(teacher="made up", checkpoint_hash="", fingerprint=dataset.fingerprint, k=K),
        rows=rows,
        items=generator.integers(1, ITEMS + 1, (len(rows), K), dtype=np.int32),
        scores=np.zeros((len(rows), K), dtype=np.float32),
        target_distance=generator.random(len(rows), dtype=np.float32),
        item_embeddings=torch.zeros(ITEMS + 1, 8),
        text_embeddings=None,
        log_mass_outside=None,
        content_hash="made up",
    )


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--trials", type=int, default=12, help="of the sweep")
    parser.add_argument("--gigabytes", type=float, default=1.0, help="of the data that trials share")


if __name__ == "__main__":
    main(__doc__, body, arguments=arguments)
