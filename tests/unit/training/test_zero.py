"""DeepSpeed ZeRO over two processes (gloo) trains what plain data parallelism trains, and exports it whole."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from recsys.data.prepared import PreparedDataset

SCRIPT = """
import os, sys, json, datetime
import torch, torch.distributed as dist
from recsys.data.prepared import PreparedDataset
from recsys.losses.config import RecommendationLossConfig
from recsys.students.build import build_student
from recsys.students.config import SASRecConfig
from recsys.training.config import DeepSpeedConfig, TrainingConfig
from recsys.training.loop import train

uri, stage = sys.argv[1], json.loads(sys.argv[2])
torch.set_num_threads(1)
dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=60))
dataset = PreparedDataset.load(uri)
objective = build_student(
    SASRecConfig(width=16, blocks=1, heads=1, max_positions=8, dropout=0.0), dataset, loss=RecommendationLossConfig()
)
deepspeed = None if stage is None else DeepSpeedConfig(zero_stage=stage)
accumulation = 1 if stage is None else 3
config = TrainingConfig(
    epochs=2, batch_size=32, learning_rate=0.01, deepspeed=deepspeed, accumulation=accumulation
)
result = train(objective, dataset, config, report=lambda epoch: None)
if dist.get_rank() == 0:
    torch.save(result.state, sys.argv[3])
dist.barrier()
dist.destroy_process_group()
"""


def launch(uri: str, stage: int | None, output: Path, port: int) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", SCRIPT, uri, json.dumps(stage), str(output)],
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
        assert [process.wait(timeout=120) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()


@pytest.mark.full
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_zero_trains_and_exports_what_data_parallelism_does(walks: PreparedDataset, tmp_path: Path, stage: int) -> None:
    import socket

    import torch

    uri = str(tmp_path / "dataset")
    walks.write(uri)
    states = []
    for which in (None, stage):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        launch(uri, which, tmp_path / f"{which}.pt", port)
        states.append(torch.load(tmp_path / f"{which}.pt", weights_only=True))
    assert states[0].keys() == states[1].keys()
    for name, tensor in states[0].items():
        assert states[1][name].shape == tensor.shape
        if name.endswith("qkv.bias"):
            continue  # attention does not depend on the keys' bias: Adam blows its rounding errors up
        torch.testing.assert_close(states[1][name].float(), tensor, atol=1e-4, rtol=1e-3)
