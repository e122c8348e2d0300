"""An epoch of SASRec on Amazon Beauty by three loops.

    python benchmarks/beauty.py [--quick] [--minutes N] --data-dir D [--rectools PYTHON]

Ours, a plain loop as one would write it, and RecTools' (`benchmarks/rectools_sasrec.py`, in a Python of its own). Each
learns every position of the sequences that training may see with the softmax over the whole catalogue: equally wide,
deep and long, the same batch, optimiser (Adam) and learning rate, on one thread. The plain loop trains our model and
computes the scores of real positions alone, but pads each batch to the longest history and holds all scores; RecTools
scores the padding too, and of longer sequences learns the end alone. Losses are means over an epoch's targets, with the
dropout of training.

Seconds are processor time, so that other work on the machine counts little: alone there, they are those of the clock,
which are given too (`wall`).

Keys: seconds of an epoch and `loss`, the training loss of each epoch, of each side; speedups; `seconds_by_history`,
ours where histories may have 50, 100 and 200 items, which few users have, and `longest_over_shortest`, the last against
the first; `load_at_start` and `load_at_end` of the machine. RecTools is measured where PYTHON, RECSYS_RECTOOLS or this
Python has it (`pip install "rectools[torch]"`), else null; an epoch that the time limit ends is scaled up (of which
`share` was done).
"""

import argparse
import csv
import json
import os
import random
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from harness import FIXTURE, ROOT, Options, main, progress, scratch
from torch.nn import functional

from recsys.data.config import DataConfig
from recsys.data.prepare import prepare
from recsys.data.prepared import PreparedDataset
from recsys.errors import UserError
from recsys.histories import Histories
from recsys.losses.config import RecommendationLossConfig
from recsys.students.build import build_student
from recsys.students.config import SASRecConfig
from recsys.training.config import TrainingConfig
from recsys.training.loop import Epoch, train_local
from recsys.training.objective import Objective

DATASET = "amazon-beauty-2014-5core"
BATCH = 128
EPOCHS = 3
HISTORIES = (50, 100, 200)
INSTALL = (
    "RecTools is left out; install it in an environment of its own (python -m venv V; "
    'V/bin/pip install "rectools[torch]"), and give V/bin/python by --rectools or RECSYS_RECTOOLS'
)
_MISSING = 3  # exit status of rectools_sasrec.py

Curve = list[dict[str, float]]
"""`seconds`, `wall` and `loss` of each epoch."""


def body(options: Options) -> dict[str, Any]:
    load = os.getloadavg()[0]
    with scratch() as folder:
        figures = measure(options, folder)
    return {**figures, "load_at_start": round(load, 2), "load_at_end": round(os.getloadavg()[0], 2)}


def measure(options: Options, folder: str) -> dict[str, Any]:
    """Figures of all sides."""
    if options.quick:
        config = DataConfig(path=str(FIXTURE))
    else:
        config = DataConfig(source="table", path=str(options.dataset(DATASET) / "interactions.tsv.gz"))
    dataset = prepare(config, "beauty", report=progress)
    # Training is what is timed: of the validation in our loop a small part is enough.
    rows = {**dataset.split_rows, "valid": dataset.rows("valid")[:100]}
    dataset = replace(dataset, split_rows=rows, fingerprint="")
    torch.set_num_threads(1)
    epochs = 2 if options.quick else EPOCHS
    by_history = {}
    for length in reversed(HISTORIES):
        progress(f"our loop, histories of {length}")
        longer = replace(dataset, max_history=length, fingerprint="")
        ours = train_ours(build(longer), longer, epochs, Path(folder, f"history-{length}"))
        by_history[str(length)] = find_median(ours)
    progress("a plain loop")
    plain = train_plain(build(dataset), dataset, epochs)
    progress("RecTools")
    rectools = train_rectools(dataset, epochs, max(options.seconds_left - 30, 90), options.args.rectools, folder)
    if rectools is None:
        progress(INSTALL)
    seconds, plain_seconds = find_median(ours), find_median(plain)
    return {
        "speedup_vs_plain": round(plain_seconds / seconds, 2),
        "speedup_vs_rectools": rectools and round(rectools["seconds_per_epoch"] / seconds, 2),
        "seconds_per_epoch": round(seconds, 3),
        "plain_seconds_per_epoch": round(plain_seconds, 3),
        "rectools_seconds_per_epoch": rectools and round(rectools["seconds_per_epoch"], 1),
        "wall": {
            "ours": round(find_median(ours, "wall"), 3),
            "plain": round(find_median(plain, "wall"), 3),
            "rectools": rectools and round(rectools["wall_seconds_per_epoch"], 1),
        },
        "loss": [round(epoch["loss"], 4) for epoch in ours],
        "plain_loss": [round(epoch["loss"], 4) for epoch in plain],
        "rectools_loss": rectools and rectools["loss"],
        "seconds_by_history": {str(length): round(by_history[str(length)], 3) for length in HISTORIES},
        "longest_over_shortest": round(by_history[str(HISTORIES[-1])] / by_history[str(HISTORIES[0])], 3),
        "rectools": rectools and {name: rectools[name] for name in ("share", "targets", "versions")},
        "targets": len(dataset.rows("train")),
        "items": dataset.num_items,
    }


def build(dataset: PreparedDataset) -> Objective:
    model = SASRecConfig(max_positions=dataset.max_history)
    return build_student(model, dataset, loss=RecommendationLossConfig())


def find_median(curve: Curve, name: str = "seconds") -> float:
    """Of an epoch, the first left out: it pays for first use."""
    return median(epoch[name] for epoch in curve[1:])


def train_ours(objective: Objective, dataset: PreparedDataset, epochs: int, folder: Path) -> Curve:
    training = TrainingConfig(epochs=epochs, batch_size=BATCH, patience=0)
    ends = [time.process_time()]
    report = partial(_append_time, ends)
    records = train_local(objective, dataset, training, folder, report=report).progress.curve
    return [
        {"seconds": end - begin, "wall": record["train_seconds"], "loss": record["loss"]}
        for begin, end, record in zip(ends, ends[1:], records, strict=False)
    ]


def _append_time(ends: list[float], _: Epoch) -> None:
    ends.append(time.process_time())


def read_sequences(dataset: PreparedDataset) -> list[tuple[str, list[int]]]:
    """The users that have training rows, each with the items that training may see."""
    last = dict(zip(dataset.users_of(rows := dataset.rows("train")).tolist(), rows.tolist(), strict=True))
    return [
        (dataset.user_ids[user], dataset.items[dataset.offsets[user] : row + 1].tolist()) for user, row in last.items()
    ]


def cut(sequence: list[int], longest: int) -> list[list[int]]:
    """Parts of at most `longest` targets and the item before them: every item but the first is a target once."""
    return [sequence[max(0, end - longest - 1) : end] for end in range(len(sequence), 1, -longest)]


def train_plain(objective: Objective, dataset: PreparedDataset, epochs: int) -> Curve:
    """Pad, score every item at every position, learn by PyTorch's own cross-entropy."""
    longest = dataset.max_history
    parts = [part for _, sequence in read_sequences(dataset) for part in cut(sequence, longest)]
    model: Any = objective.model.train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    shuffle, curve = random.Random(0), Curve()
    for _ in range(epochs):
        begun, started, total, count = time.process_time(), time.perf_counter(), 0.0, 0
        shuffle.shuffle(parts)
        for begin in range(0, len(parts), BATCH):
            items, targets = np.zeros((2, len(batch := parts[begin : begin + BATCH]), longest), dtype=np.int64)
            for row, part in enumerate(batch):
                items[row, : len(part) - 1], targets[row, : len(part) - 1] = part[:-1], part[1:]
            hidden = model.hidden(Histories.of(torch.from_numpy(items)))
            wanted = torch.from_numpy(targets)
            known = wanted > 0
            loss = functional.cross_entropy(hidden[known] @ model.item_vectors().T, wanted[known])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total, count = total + loss.item() * int(known.sum()), count + int(known.sum())
        spent = {"seconds": time.process_time() - begun, "wall": time.perf_counter() - started}
        curve.append({**spent, "loss": total / count})
    return curve


def train_rectools(
    dataset: PreparedDataset, epochs: int, seconds: float, python: str | None, folder: str
) -> dict[str, Any] | None:
    """What `rectools_sasrec.py` says after at most `seconds` of the clock; None where RecTools is not there.

    Raises:
        UserError: there is no such Python, or RecTools failed.
    """
    path = Path(folder, "interactions.csv")
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["user_id", "item_id", "position"])
        for user, sequence in read_sequences(dataset):
            writer.writerows((user, item, position) for position, item in enumerate(sequence))
    settings = {"epochs": epochs, "seconds": seconds, "history": dataset.max_history}
    model = SASRecConfig()
    settings |= {"batch": BATCH, "width": model.width, "blocks": model.blocks, "heads": model.heads}
    settings["dropout"] = model.dropout
    command = [python or sys.executable, "-I", str(ROOT / "rectools_sasrec.py"), str(path)]
    command += [f"--{name}={value}" for name, value in settings.items()]
    try:
        # In a folder of its own, since Lightning leaves files behind.
        done = subprocess.run(
            command, cwd=folder, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True
        )
    except OSError as error:
        raise UserError(f"--rectools: {python} cannot be run: {error.strerror}") from None
    if done.returncode == _MISSING:
        return None
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or [f"status {done.returncode}"]
        raise UserError(f"RecTools failed: {last[0]}")
    figures: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return figures


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--rectools",
        metavar="PYTHON",
        default=os.environ.get("RECSYS_RECTOOLS"),
        help="a Python that has RecTools (default: environment variable RECSYS_RECTOOLS, else this one)",
    )


if __name__ == "__main__":
    main(__doc__, body, arguments=arguments)
