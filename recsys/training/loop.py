"""The training loop: the same for one process and for each worker of a cluster, for students and teachers.

Every epoch ends with the validation metric by full ranking; the weights of the best epoch are kept, and training stops
when `patience` epochs brought nothing better. The state after an epoch is enough to continue as if nothing had
happened: all randomness is drawn from (seed, epoch, rank).
"""

import json
import math
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor

from recsys.data.prepared import PreparedDataset
from recsys.errors import UserError
from recsys.evaluation.metrics import metrics_from_ranks
from recsys.evaluation.ranking import model_scorer, rank_targets
from recsys.processes import world
from recsys.training.batches import Batches
from recsys.training.config import TrainingConfig
from recsys.training.engine import Engine, build_engine
from recsys.training.objective import Objective
from recsys.training.throughput import Meter


@dataclass
class Progress:
    """Where a run stands after an epoch.

    Attributes:
        epoch: epochs finished.
        best_epoch, best: the epoch (from 1) with the best validation metric, and its metrics.
        curve: one record per epoch: losses, validation metrics, seconds.
        finished: no further epoch follows.
    """

    epoch: int = 0
    best_epoch: int = 0
    best: dict[str, float] = field(default_factory=dict)
    curve: list[dict[str, float]] = field(default_factory=list)
    finished: bool = False

    def describe(self) -> dict[str, Any]:
        """What a checkpoint says of its training."""
        return {"best_epoch": self.best_epoch, "epochs": self.epoch, "valid": self.best, "curve": self.curve}


@dataclass
class Epoch:
    """What `report` gets after every epoch, on every process.

    Attributes:
        metrics: of this epoch; equal on all processes.
        save: writes this process's part of the resume state into an empty directory. Every process calls it or none.
        export: the weights after this epoch (`SequentialRecommender.export_state`) on the CPU. Called likewise.
    """

    number: int
    metrics: dict[str, float]
    finished: bool
    save: Callable[[Path], None]
    export: Callable[[], dict[str, Tensor]]


@dataclass(frozen=True)
class TrainingResult:
    """The best epoch's weights (`SequentialRecommender.export_state`, on rank 0) and how training went."""

    state: dict[str, Tensor]
    progress: Progress


def train(
    objective: Objective,
    dataset: PreparedDataset,
    config: TrainingConfig,
    *,
    report: Callable[[Epoch], None],
    resume: Path | None = None,
    device: torch.device | str = "cpu",
    eval_batch_size: int = 256,
) -> TrainingResult:
    """Train until the epochs or the patience are used up.

    With `torch.distributed` initialised every process calls this with the same arguments.

    Args:
        report: called after each epoch.
        resume: directory with what `Epoch.save` wrote on all processes.

    Raises:
        UserError: the loss or the scores became NaN.
    """
    rank, size = world()
    device = torch.device(device)
    engine = build_engine(objective, config, device)
    batches = objective.batches(dataset, config, rank=rank, world=size)
    meter = Meter(objective, device)
    progress, best_state = Progress(), dict[str, Tensor]()
    if resume is not None:
        engine.load(resume)
        progress = Progress(**json.loads((resume / "progress.json").read_text()))
        if rank == 0:
            best_state = load_file(resume / "best.safetensors")
    while not progress.finished:
        record = _train_epoch(engine, batches, config, progress.epoch, device, meter)
        started = time.perf_counter()
        metrics = validate(objective, dataset, config, device=device, batch_size=eval_batch_size)
        record |= {f"valid_{name}": value for name, value in metrics.items()}
        record["valid_seconds"] = time.perf_counter() - started
        progress.epoch += 1
        progress.curve.append({"epoch": progress.epoch, **record})
        if not progress.best or metrics[config.metric] > progress.best[config.metric]:
            progress.best_epoch, progress.best = progress.epoch, metrics
            state = engine.export_state()
            best_state = state if rank == 0 else {}
        waited = progress.epoch - progress.best_epoch
        progress.finished = progress.epoch >= config.epochs or bool(config.patience and waited >= config.patience)

        save = partial(_save, engine, progress, best_state)
        report(Epoch(progress.epoch, record, progress.finished, save, engine.export_state))
    return TrainingResult(state=best_state, progress=progress)


def validate(
    objective: Objective,
    dataset: PreparedDataset,
    config: TrainingConfig,
    *,
    device: torch.device | str = "cpu",
    batch_size: int = 256,
) -> dict[str, float]:
    """Metrics on the objective's validation rows by full ranking; each process ranks its share."""
    rank, size = world()
    rows = objective.validation_rows(dataset)
    share = rows[rank::size]
    own = len(share)
    if own < len(rows[::size]):  # under ZeRO-3 all processes must score equally many
        share = np.append(share, rows[0])
    objective.eval()
    try:
        with torch.inference_mode():
            ranks = rank_targets(
                model_scorer(objective.model),
                dataset,
                share,
                mask_seen=config.mask_seen,
                batch_size=batch_size,
                device=device,
            )[:own]
    except FloatingPointError:
        raise UserError("training diverged: the model gives NaN scores; lower training.learning_rate") from None
    finally:
        objective.train()
    if size > 1:
        shares: list[Any] = [None] * size
        dist.all_gather_object(shares, ranks)
        return metrics_from_ranks(np.concatenate(shares))
    return metrics_from_ranks(ranks)


def train_local(
    objective: Objective,
    dataset: PreparedDataset,
    config: TrainingConfig,
    directory: Path,
    *,
    report: Callable[[Epoch], None] | None = None,
    **options: Any,
) -> TrainingResult:
    """`train` in one process, with the state after each epoch in `directory`; an interrupted call continues there."""
    directory.mkdir(parents=True, exist_ok=True)
    current = directory / "last"

    def save_and_report(epoch: Epoch) -> None:
        new, old = directory / "new", directory / "old"
        for leftover in (new, old):
            shutil.rmtree(leftover, ignore_errors=True)
        new.mkdir()
        epoch.save(new)
        if current.exists():
            current.rename(old)
        new.rename(current)
        shutil.rmtree(old, ignore_errors=True)
        if report:
            report(epoch)

    if not current.exists() and (directory / "old").exists():  # killed between the two renames
        (directory / "old").rename(current)
    resume = current if current.exists() else None
    return train(objective, dataset, config, report=save_and_report, resume=resume, **options)


def _save(engine: Engine, progress: Progress, best_state: dict[str, Tensor], directory: Path) -> None:
    engine.save(directory)
    if world()[0] == 0:
        save_file(best_state, directory / "best.safetensors")
        (directory / "progress.json").write_text(json.dumps(asdict(progress)))


def _train_epoch(
    engine: Engine, source: Batches, config: TrainingConfig, epoch: int, device: torch.device, meter: Meter
) -> dict[str, float]:
    rank, size = world()
    torch.manual_seed(int(np.random.default_rng((config.seed, epoch, rank)).integers(2**62)))
    batches = list(source.epoch(epoch)) if config.schedule == "cosine" or config.warmup_steps else source.epoch(epoch)
    steps = len(batches) if isinstance(batches, list) else 1
    sums: dict[str, Tensor] = {}
    count, targets = 0, 0.0
    started = time.perf_counter()
    rate = config.learning_rate
    for number, (batch, total) in enumerate(batches):
        rate = learning_rate(config, epoch, number, steps)
        meter.before(batch)
        for name, value in engine.step(batch, total, rate).items():
            sums[name] = sums.get(name, torch.zeros((), device=device)) + value
        meter.after(batch)
        count += 1
        targets += total
    if not count:
        raise UserError("there is nothing to train on: the dataset has fewer training windows than workers")
    seconds = time.perf_counter() - started
    stacked = torch.stack([sums[name] for name in sorted(sums)]) / count
    if size > 1:
        dist.all_reduce(stacked)
        stacked /= size
    record = dict(zip(sorted(sums), stacked.tolist(), strict=True))
    if not math.isfinite(record["loss"]):
        raise UserError(f"training diverged: the loss of epoch {epoch + 1} is NaN; lower training.learning_rate")
    speed = {"targets_per_second": targets / seconds, **meter.read(seconds)}
    return record | {"learning_rate": rate, "train_seconds": seconds, **speed}


def learning_rate(config: TrainingConfig, epoch: int, step: int, steps: int) -> float:
    """Linear warm-up over `warmup_steps`, then constant or a cosine over the epochs down to zero."""
    done = epoch * steps + step
    warm = min(1.0, (done + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    cosine = 0.5 * (1 + math.cos(math.pi * (epoch + step / steps) / config.epochs))
    return config.learning_rate * warm * (cosine if config.schedule == "cosine" else 1.0)


def load_progress(directory: Path) -> TrainingResult:
    """The result as of the epoch whose state `Epoch.save` wrote to `directory`."""
    progress = Progress(**json.loads((directory / "progress.json").read_text()))
    return TrainingResult(state=load_file(directory / "best.safetensors"), progress=progress)
