"""The numbers that a device computes with."""

import torch

from recsys.errors import UserError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """The type an engine computes in.

    Raises:
        UserError: fp16 on a processor, none of which computes in it.
    """
    if dtype == "fp16" and device.type == "cpu":
        raise UserError("signals.dtype=fp16 needs a GPU; use auto, bf16 or fp32")
    if dtype != "auto":
        return DTYPES[dtype]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    able = torch.cpu.get_capabilities()
    return torch.bfloat16 if able.get("avx512_bf16") or able.get("amx_bf16") else torch.float32
