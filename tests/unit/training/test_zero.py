"""DeepSpeed ZeRO (gloo) trains what plain PyTorch trains, and exports it whole.

The teachers are tiny, with random weights.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from recsys.config import from_dict
from recsys.data.prepared import PreparedDataset
from recsys.errors import UserError
from recsys.ports import free_port
from recsys.training.config import DeepSpeedConfig
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
from recsys.teacher import teacher_class
from recsys.config import from_dict

uri, zero, model = sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[4])
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
deepspeed = None if zero is None else DeepSpeedConfig(**zero)
accumulation = 1 if zero is None else json.loads(sys.argv[5])
if deepspeed and deepspeed.zero_stage == 3:
    objective.to = lambda *_: sys.exit("the whole model was moved to the device")
if deepspeed and isinstance(model, dict):  # tensors as small as these DeepSpeed would else leave whole
    import deepspeed as library
    initialize = library.initialize
    def parting_all(*, config, **options):
        config["zero_optimization"]["stage3_param_persistence_threshold"] = 20
        return initialize(config=config, **options)
    library.initialize = parting_all
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
    uri: str,
    zero: dict[str, object] | None,
    output: Path,
    *,
    model: dict[str, object] | None = None,
    accumulation: int = 3,
    workers: int = 2,
) -> None:
    port = free_port()
    given = [uri, json.dumps(zero), str(output), json.dumps(model), json.dumps(accumulation)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", SCRIPT, *given],
            env={
                **os.environ,
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(workers),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
            },
        )
        for rank in range(workers)
    ]
    try:
        assert [process.wait(timeout=280) for process in processes] == [0] * workers
    finally:
        for process in processes:
            process.kill()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"zero_stage": 2, "offload_parameters": True}, "is of ZeRO-3, but zero_stage is 2; set it to 3"),
        ({"zero_stage": 0, "offload_optimizer": True}, "offload_optimizer needs ZeRO; set zero_stage to 1, 2 or 3"),
    ],
)
def test_what_a_stage_cannot_do_is_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        from_dict(DeepSpeedConfig, values)


@pytest.mark.full
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_zero_trains_and_exports_what_data_parallelism_does(walks: PreparedDataset, tmp_path: Path, stage: int) -> None:
    uri = str(tmp_path / "dataset")
    walks.write(uri)
    launch(uri, None, tmp_path / "plain.pt")
    launch(uri, {"zero_stage": stage}, tmp_path / "zero.pt")
    assert_same(tmp_path / "plain.pt", tmp_path / "zero.pt")


@pytest.mark.full
@pytest.mark.parametrize("stage", [2, 3])
def test_offloading_changes_nothing(walks: PreparedDataset, tmp_path: Path, stage: int) -> None:
    """The first time on a machine DeepSpeed compiles its step, for a minute."""
    if shutil.which("g++") is None:
        pytest.skip("DeepSpeed compiles its step on the processor; there is no compiler")
    uri = str(tmp_path / "dataset")
    walks.write(uri)
    offloaded = {"zero_stage": stage, "offload_optimizer": True, "offload_parameters": stage == 3}
    launch(uri, None, tmp_path / "plain.pt", workers=1)
    launch(uri, offloaded, tmp_path / "offloaded.pt", workers=1)
    assert_same(tmp_path / "plain.pt", tmp_path / "offloaded.pt")


@pytest.mark.full
@pytest.mark.parametrize(("stage", "training"), [(1, "full"), (3, "full"), (3, "lora")])
def test_a_trained_item_side_is_trained_by_zero_too(
    walks: PreparedDataset, tmp_path: Path, stage: int, training: str
) -> None:
    uri = str(tmp_path / "dataset")
    walks.write(uri)
    model = {
        "kind": "hllm", "width": 16, "heads": 2, "layers": 1, "hidden": 24, "dropout": 0.0, "negatives": 40,
        "item": {"model": save_item_model(tmp_path / "item", "Bert"), "batch_tokens": 64},
        "item_training": training, "item_lora": {"dropout": 0.0},
    }  # fmt: skip
    launch(uri, None, tmp_path / "plain.pt", model=model)
    launch(uri, {"zero_stage": stage}, tmp_path / "zero.pt", model=model, accumulation=1)
    assert_same(tmp_path / "plain.pt", tmp_path / "zero.pt")


@pytest.mark.full
def test_zero_3_waits_for_who_writes_longer(walks: PreparedDataset, tmp_path: Path) -> None:
    uri = str(tmp_path / "dataset")
    walks.write(uri)
    model = {
        "kind": "bigrec", "width": 16, "layers": 1, "heads": 2, "vocabulary": 300, "beams": 2, "valid_rows": 9,
        "train_rows": 64,
    }  # fmt: skip
    launch(uri, None, tmp_path / "plain.pt", model=model)
    launch(uri, {"zero_stage": 3}, tmp_path / "zero.pt", model=model, accumulation=2)
    assert_same(tmp_path / "plain.pt", tmp_path / "zero.pt")


def assert_same(one: Path, other: Path) -> None:
    states = [torch.load(path, weights_only=True) for path in (one, other)]
    assert states[0].keys() == states[1].keys()
    for name, tensor in states[0].items():
        assert states[1][name].shape == tensor.shape
        if name.endswith(("qkv.bias", "key.bias")):
            continue  # attention does not depend on the keys' bias: Adam blows its rounding errors up
        torch.testing.assert_close(states[1][name].float(), tensor, atol=1e-4, rtol=1e-3, msg=name)
