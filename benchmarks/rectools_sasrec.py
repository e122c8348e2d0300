"""RecTools' SASRec with its softmax loss, through its public names alone: the other side of `benchmarks/beauty.py`.

    PYTHON benchmarks/rectools_sasrec.py INTERACTIONS.csv --epochs N --seconds S [--history N] …

A program of its own that imports nothing of this project, since RecTools asks for older NumPy and pandas. INTERACTIONS
has the columns user_id, item_id and position (in its user's sequence). The last line is one JSON object:

    loss: of each epoch that was learned whole, the mean over its targets.
    seconds_per_epoch, wall_seconds_per_epoch: medians over them, of the processor (one thread) and of the clock. Where
        `--seconds` of the clock ended the first epoch, what it took, scaled up to all batches.
    share: how much of the first epoch was learned.
    targets, versions.

The exit status is 3 where RecTools or what it trains with is missing.
"""

import argparse
import json
import logging
import statistics
import sys
import time
import warnings
from importlib import metadata
from typing import Any

try:
    import pandas as pd
    import torch
    from pytorch_lightning import Callback, Trainer
    from rectools import Columns
    from rectools.dataset import Dataset
    from rectools.models import SASRecModel
except ImportError as error:
    print(error, file=sys.stderr)
    sys.exit(3)


class Clock(Callback):
    """Seconds and loss of each epoch; ends training where the next epoch would not fit."""

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.spent: list[tuple[float, float]] = []  # processor, wall
        self.first = (0.0, 0.0)
        self.loss: list[float] = []
        self.targets = self.batches = self.learned = 0

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:  # noqa: ARG002
        self.started = time.perf_counter()
        self.batches = int(trainer.num_training_batches)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:  # noqa: ARG002
        self.begun = (time.process_time(), time.perf_counter())
        self.done = self.targets = 0
        self.sum = 0.0

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        targets = int((batch["y"] > 0).sum())
        self.sum += float(outputs["loss"]) * targets
        self.targets += targets
        self.done += 1
        if not self.spent:
            self.first, self.learned = self.measure(), self.done
            trainer.should_stop |= self.first[1] > self.limit

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:  # noqa: ARG002
        if self.done < self.batches:
            return
        self.spent.append(self.measure())
        self.loss.append(self.sum / self.targets)
        trainer.should_stop |= time.perf_counter() - self.started + self.spent[-1][1] > self.limit

    def measure(self) -> tuple[float, float]:
        return time.process_time() - self.begun[0], time.perf_counter() - self.begun[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("interactions")
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    for name, value in (("history", 50), ("width", 64), ("blocks", 2), ("heads", 2), ("batch", 128)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--dropout", type=float, default=0.2)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    log = pd.read_csv(args.interactions)
    # Its order is that of the datetimes.
    table = pd.DataFrame(
        {
            Columns.User: log["user_id"],
            Columns.Item: log["item_id"],
            Columns.Weight: 1.0,
            Columns.Datetime: pd.to_datetime(log["position"], unit="s"),
        }
    )
    clock = Clock(args.seconds)
    model = SASRecModel(
        n_blocks=args.blocks,
        n_heads=args.heads,
        n_factors=args.width,
        dropout_rate=args.dropout,
        session_max_len=args.history,
        batch_size=args.batch,
        loss="softmax",
        lr=1e-3,
        get_trainer_func=lambda: Trainer(
            max_epochs=args.epochs,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[clock],
        ),
    )
    model.fit(Dataset.construct(table))
    # The trainer that trained is a copy of the one that was given, and so is its clock.
    (clock,) = (callback for callback in model.fit_trainer.callbacks if isinstance(callback, Clock))
    scale = 1.0 if clock.spent else clock.batches / clock.learned
    seconds, wall = (scale * statistics.median(spent) for spent in zip(*(clock.spent or [clock.first]), strict=True))
    figures = {
        "seconds_per_epoch": seconds,
        "wall_seconds_per_epoch": wall,
        "loss": [round(loss, 4) for loss in clock.loss],
        "share": clock.learned / clock.batches,
        "targets": clock.targets,
        "versions": {name: metadata.version(name) for name in ("rectools", "torch", "pytorch-lightning", "numpy")},
    }
    print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
