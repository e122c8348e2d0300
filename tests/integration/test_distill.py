"""Students on Ray Train: two workers learn what one process learns, whatever happens to a worker on the way."""

import os
import signal
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import ray.cloudpickle
import torch

from ray_jobs.on_ray import OnRay
from ray_jobs.training import train_runs
from recsys.config import from_dict
from recsys.data.prepared import Catalogue, PreparedDataset
from recsys.errors import UserError
from recsys.losses.config import RecommendationLossConfig
from recsys.serving.recommender import Recommender
from recsys.settings import Settings, WorkersConfig
from recsys.stages import student as student_stage
from recsys.students.build import build_student
from recsys.students.config import SASRecConfig
from recsys.tracking import Run
from recsys.training.batches import Batch
from recsys.training.config import DeepSpeedConfig, TrainingConfig
from recsys.training.loop import train
from recsys.training.objective import NextItemObjective, Objective

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])

MODEL = SASRecConfig(width=16, blocks=1, heads=1, max_positions=8, dropout=0.0)
TRAINING = TrainingConfig(epochs=4, batch_size=16, learning_rate=0.01, patience=0)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Users walk along a circle of 30 items; the URI of the prepared dataset."""
    generator = np.random.default_rng(0)
    lengths = generator.integers(5, 20, 64)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    items = np.concatenate([(generator.integers(30) + np.arange(n)) % 30 + 1 for n in lengths]).astype(np.int32)
    last = offsets[1:] - 1
    prepared = PreparedDataset(
        name="circle",
        source={},
        protocol="leave_one_out",
        max_history=8,
        catalogue=Catalogue(
            item_ids=["", *map(str, range(1, 31))],
            titles=["", *(f"Item {n}" for n in range(1, 31))],
            train_counts=np.bincount(items, minlength=31).astype(np.int64),
        ),
        user_ids=[f"u{n}" for n in range(64)],
        offsets=offsets,
        items=items,
        timestamps=np.arange(len(items), dtype=np.int64),
        split_rows={
            "train": np.setdiff1d(np.arange(len(items)), np.concatenate([offsets[:-1], last, last - 1])),
            "valid": last - 1,
            "test": last,
        },
    )
    uri = str(tmp_path_factory.mktemp("circle") / "circle" / "dataset")
    prepared.write(uri)
    return uri


class Mortal(NextItemObjective):
    """An objective whose process is killed once, in the middle of the third epoch of rank 1."""

    marker: Path

    def forward(self, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        import torch.distributed as dist

        self.steps = getattr(self, "steps", 0) + self.training
        if dist.get_rank() == 1 and self.steps == 10 and not self.marker.exists():
            time.sleep(4)  # the controller collects reports every other second
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(batch)


class Cramped(NextItemObjective):
    """An objective after whose second epoch rank 0 can write no file of more than a kilobyte."""

    def train(self, mode: bool = True) -> "Cramped":
        import resource

        import torch.distributed as dist

        self.turns = getattr(self, "turns", 0) + mode
        if self.turns > 1 and dist.get_rank() == 0:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
        return super().train(mode)


def build(
    uri: str, marker: Path | None, training: TrainingConfig = TRAINING
) -> tuple[Objective, PreparedDataset, TrainingConfig]:
    data = PreparedDataset.load(uri)
    objective = build_student(MODEL, data, loss=RecommendationLossConfig(), seed=0)
    if marker is not None:
        objective.__class__ = Mortal
        objective.marker = marker
    return objective, data, training


def build_cramped(uri: str) -> tuple[Objective, PreparedDataset, TrainingConfig]:
    objective, data, training = build(uri, None)
    objective.__class__ = Cramped
    return objective, data, training


@pytest.mark.full
@pytest.mark.ray
@pytest.mark.faults
def test_a_full_disk_ends_all_workers_at_once(
    ray_session: None, dataset: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match=r"^cramped: .* cannot be written: File too large") as refused:
        train_runs.fit(
            "cramped",
            partial(build_cramped, dataset),
            training=TRAINING,
            scaling=WorkersConfig(workers=2, cpus=0.5),
            train_runs=str(tmp_path / "runs"),
            key="k" * 64,
            run=Run(),
        )
    assert len(str(refused.value).splitlines()) == 1
    printed = capfd.readouterr().out
    assert "cramped: epoch 1/4" in printed and "epoch 2/4" not in printed and "restarting" not in printed


@pytest.mark.ray
@pytest.mark.faults
@pytest.mark.parametrize(
    "stage",
    [
        pytest.param(None, id="plain"),
        pytest.param(2, id="zero-2", marks=pytest.mark.full),
        pytest.param(3, id="zero-3", marks=pytest.mark.full),
    ],
)
def test_two_workers_one_of_them_killed_learn_what_one_process_learns(
    ray_session: None, dataset: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], stage: Literal[2, 3] | None
) -> None:
    """With ZeRO each worker writes a part of the state, and reads it again."""
    marker = tmp_path / "killed"
    training = replace(TRAINING, deepspeed=DeepSpeedConfig(zero_stage=stage) if stage else None)
    checkpoint = train_runs.fit(
        "mortal",
        partial(build, dataset, marker, training),
        training=training,
        scaling=WorkersConfig(workers=2, cpus=0.5),
        train_runs=str(tmp_path / "runs"),
        key="k" * 64,
        run=Run(),
    )
    result = train_runs.load(checkpoint)
    assert marker.exists()
    objective, data, _ = build(dataset, None)
    alone = train(objective, data, TRAINING, report=lambda epoch: None)
    assert result.progress.best_epoch == alone.progress.best_epoch
    for name, tensor in alone.state.items():
        if name.endswith("qkv.bias"):
            continue  # attention does not depend on the keys' bias: Adam blows its rounding errors up
        torch.testing.assert_close(result.state[name], tensor, atol=1e-4, rtol=1e-3)
    printed = capfd.readouterr().out
    assert "restarting from the last checkpoint" in printed
    assert printed.count("mortal: epoch 1/4") == 1, "the first epoch was not repeated"
    train_runs.discard("mortal", train_runs=str(tmp_path / "runs"), key="k" * 64)
    assert not any((tmp_path / "runs").iterdir())


def settings(dataset: str, **student: object) -> Settings:
    root = Path(dataset).parent
    values = {
        "name": root.name,
        "storage": str(root.parent),
        "tracking": {"uri": "none"},
        "students": {"small": {"model": {"kind": "gru4rec", "width": 8}, "training": {"epochs": 2}, **student}},
    }
    return from_dict(Settings, values)


@pytest.mark.ray
def test_the_job_leaves_a_checkpoint_that_recommends_and_is_kept(
    ray_session: None, dataset: str, capfd: pytest.CaptureFixture[str]
) -> None:
    config = settings(dataset)
    training = student_stage.make(config, "small", executor=OnRay())
    assert training["epochs"] == 2
    answer = Recommender.load(config.layout.student("small")).recommend([["3", "4", "5"]], k=4)
    assert len(answer[0]) == 4 and not {"3", "4", "5"} & set(answer[0])
    assert student_stage.make(config, "small", executor=OnRay()) == {}
    assert "unchanged, kept" in capfd.readouterr().out
    assert student_stage.key(config, "small") != student_stage.key(settings(dataset, training={"epochs": 3}), "small")
    assert student_stage.key(config, "small") == student_stage.key(settings(dataset, scaling={"workers": 2}), "small")


@pytest.mark.parametrize(
    ("student", "message"),
    [
        ({"distillation": {}}, "no set of teacher signals .* run infer_teacher"),
        (
            {"scaling": {"workers": 1, "gpus": 1}, "training": {"epochs": 1}},
            "a worker asks for .* and 1 GPU, but the cluster",
        ),
    ],
)
@pytest.mark.ray
def test_what_cannot_be_is_said_in_one_line(ray_session: None, dataset: str, student: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        student_stage.make(settings(dataset, **student), "small", executor=OnRay())
