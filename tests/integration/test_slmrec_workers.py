"""Four layers taught by eight on Ray Train: two workers learn what one process learns, though one of them is killed."""

import os
import signal
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import ray.cloudpickle
import torch

from ray_jobs.training import train_runs
from recsys.checkpoint import load_checkpoint, save_checkpoint
from recsys.data.config import DataConfig
from recsys.data.prepare import prepare
from recsys.data.prepared import PreparedDataset
from recsys.losses.config import AlignmentConfig, RecommendationLossConfig
from recsys.settings import WorkersConfig
from recsys.students.config import SLMRecConfig
from recsys.students.slmrec import SLMRecObjective, build_slmrec
from recsys.teachers.config import E4SRecConfig
from recsys.teachers.e4srec import E4SRec
from recsys.tracking import Run
from recsys.training.batches import Batch
from recsys.training.config import TrainingConfig
from recsys.training.loop import train

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])

TRAINING = TrainingConfig(epochs=4, batch_size=16, learning_rate=3e-3, patience=0)


class Mortal(SLMRecObjective):
    """An objective whose process is killed once, in the middle of the third epoch of rank 1."""

    marker: Path
    mortal_step: int

    def forward(self, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        import torch.distributed as dist

        self.steps = getattr(self, "steps", 0) + self.training
        if dist.get_rank() == 1 and self.steps == self.mortal_step and not self.marker.exists():
            time.sleep(4)  # the controller collects reports every other second
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(batch)


def build(root: Path, marker: Path | None) -> tuple[SLMRecObjective, PreparedDataset, TrainingConfig]:
    dataset = PreparedDataset.load(str(root / "dataset"))
    objective = build_slmrec(
        SLMRecConfig(kind="slmrec", layers=4, start="fresh"),
        dataset,
        load_checkpoint(root / "teacher"),
        loss=RecommendationLossConfig(),
        alignment=AlignmentConfig(blocks=4, logits=0.5),
        seed=0,
    )
    if marker is not None:
        objective.__class__ = Mortal
        objective.marker = marker
        batches = list(objective.batches(dataset, TRAINING, rank=0, world=2).epoch(0))
        objective.mortal_step = 2 * len(batches) + 2
    return objective, dataset, TRAINING


@pytest.mark.ray
@pytest.mark.faults
@pytest.mark.full
def test_two_workers_one_of_them_killed_learn_what_one_process_learns(
    ray_session: None, fixture_data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    dataset = prepare(DataConfig(path=str(fixture_data), max_history=10), "random-teacher")
    dataset.write(str(tmp_path / "dataset"))
    torch.manual_seed(0)
    config = E4SRecConfig(kind="e4srec", width=8, heads=1, layers=8, dropout=0.0)
    save_checkpoint(str(tmp_path / "teacher"), E4SRec.build(config, torch.randn(dataset.num_items + 1, 8)), dataset)
    runs, key, marker = str(tmp_path / "runs"), "k" * 64, tmp_path / "killed"
    checkpoint = train_runs.fit(
        "mortal",
        partial(build, tmp_path, marker),
        training=TRAINING,
        scaling=WorkersConfig(workers=2, cpus=0.5),
        train_runs=runs,
        key=key,
        run=Run(),
    )
    result = train_runs.load(checkpoint)
    assert marker.exists()
    objective, dataset, _ = build(tmp_path, None)
    alone = train(objective, dataset, TRAINING, report=lambda epoch: None)
    assert result.progress.best_epoch == alone.progress.best_epoch
    for ours, theirs in zip(result.progress.curve, alone.progress.curve, strict=True):
        for part in ("recommendation_loss", "cosine_alignment_loss", "norm_alignment_loss", "logit_alignment_loss"):
            assert ours[part] == pytest.approx(theirs[part], rel=1e-3), part
    for name, tensor in alone.state.items():
        torch.testing.assert_close(result.state[name], tensor, atol=1e-3, rtol=1e-2, msg=name)
    printed = capfd.readouterr().out
    assert "restarting from the last checkpoint" in printed
    assert printed.count("mortal: epoch 1/4") == 1, "the first epoch was not repeated"
    train_runs.discard("mortal", train_runs=runs, key=key)
