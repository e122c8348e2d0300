"""What processes that compute together share: who they are, where they meet, and DeepSpeed."""

import os
from typing import Any

import torch
import torch.distributed as dist


def world() -> tuple[int, int]:
    """This process's rank and the number of processes."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def import_deepspeed(device: torch.device) -> Any:
    """DeepSpeed, kept from compiling its shared-memory collectives on CPU (they need a compiler and crash without
    `LOCAL_SIZE`); gloo does their work."""
    if device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    os.environ.setdefault("DEEPSPEED_LOG_LEVEL", "ERROR")
    import deepspeed

    if device.type == "cpu":
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed
