"""DeepSpeed ZeRO over two processes (gloo) trains what plain data parallelism trains, and exports it whole.

The teachers are tiny, with random weights.
"""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from recsys.data.prepared import PreparedDataset
from tests.unit.teachers.test_hllm_training import save_item_model

SCRIPT = """
import os, sys, json, datetime
import torch, torch.distributed as dist
from recsys.data.prepared import PreparedDataset
from recsys.losses.config import RecommendationLossConfig
from recsys.students.build import build_student
from recsys.students.config import SASRecConfig
from recsys.training.config import DeepSpeedConfig, TrainingConfig
from recsys.training.loop import train
from recsys.teachers.teacher import teacher_class
from recsys.config import from_dict

uri, stage, model = sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[4])
torch.set_num_threads(1)
dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=60))
dataset = PreparedDataset.load(uri)
if model is None:
    model = SASRecConfig(width=16, blocks=1, heads=1, max_positions=8, dropout=0.0)
    objective = build_student(model, dataset, loss=RecommendationLossConfig())
else:
    teacher = teacher_class(model["kind"])
    config = from_dict(teacher.Config, model)
    if dist.get_rank() == 0:
        teacher.prepare(config, dataset, cache=uri + "-cache", student=str)
    dist.barrier()
    inputs = teacher.prepare(config, dataset, cache=uri + "-cache", student=str)
    objective = teacher.objective(config, dataset, inputs, seed=0)
deepspeed = None if stage is None else DeepSpeedConfig(zero_stage=stage)
accumulation = 1 if stage is None else json.loads(sys.argv[5])
config = TrainingConfig(
    epochs=2, batch_size=32, learning_rate=0.01, deepspeed=deepspeed, accumulation=accumulation
)
result = train(objective, dataset, config, report=lambda epoch: None)
if dist.get_rank() == 0:
    torch.save(result.state, sys.argv[3])
dist.barrier()
dist.destroy_process_group()
"""


def launch(
    uri: str, stage: int | None, output: Path, *, model: dict[str, object] | None = None, accumulation: int = 3
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    given = [uri, json.dumps(stage), str(output), json.dumps(model), json.dumps(accumulation)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", SCRIPT, *given],
            env={
                **os.environ,
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": "2",
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
            },
        )
        for rank in range(2)
    ]
    try:
        assert [process.wait(timeout=200) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()


@pytest.mark.full
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_zero_trains_and_exports_what_data_parallelism_does(walks: PreparedDataset, tmp_path: Path, stage: int) -> None:
    uri = str(tmp_path / "dataset")
    walks.write(uri)
    for which in (None, stage):
        launch(uri, which, tmp_path / f"{which}.pt")
    assert_same(tmp_path / "None.pt", tmp_path / f"{stage}.pt")


@pytest.mark.full
@pytest.mark.parametrize("stage", [1, 3])
def test_a_trained_item_side_is_trained_by_zero_too(walks: PreparedDataset, tmp_path: Path, stage: int) -> None:
    uri = str(tmp_path / "dataset")
    walks.write(uri)
    model = {
        "kind": "hllm", "width": 16, "heads": 2, "layers": 1, "hidden": 24, "dropout": 0.0, "negatives": 40,
        "item": {"model": save_item_model(tmp_path / "item", "Bert"), "batch_tokens": 64}, "item_training": "full",
    }  # fmt: skip
    for which in (None, stage):
        launch(uri, which, tmp_path / f"{which}.pt", model=model, accumulation=1)
    assert_same(tmp_path / "None.pt", tmp_path / f"{stage}.pt")


@pytest.mark.full
def test_zero_3_waits_for_who_writes_longer(walks: PreparedDataset, tmp_path: Path) -> None:
    uri = str(tmp_path / "dataset")
    walks.write(uri)
    model = {
        "kind": "bigrec", "width": 16, "layers": 1, "heads": 2, "vocabulary": 300, "beams": 2, "valid_rows": 9,
        "train_rows": 64,
    }  # fmt: skip
    for which in (None, 3):
        launch(uri, which, tmp_path / f"{which}.pt", model=model, accumulation=2)
    assert_same(tmp_path / "None.pt", tmp_path / "3.pt")


def assert_same(one: Path, other: Path) -> None:
    states = [torch.load(path, weights_only=True) for path in (one, other)]
    assert states[0].keys() == states[1].keys()
    for name, tensor in states[0].items():
        assert states[1][name].shape == tensor.shape
        if name.endswith(("qkv.bias", "key.bias")):
            continue  # attention does not depend on the keys' bias: Adam blows its rounding errors up
        torch.testing.assert_close(states[1][name].float(), tensor, atol=1e-4, rtol=1e-3, msg=name)
