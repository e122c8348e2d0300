"""Linear layers whose weights are kept in 8 or 4 bits, and what models keep in all: weight-only quantisation.

What a layer reads and puts out stays floating point. Large products are computed in bf16 where the processor does so
(every int8 is a bf16 number), otherwise in fp32; int4 uses PyTorch's own kernel. `torch.ao`'s dynamic quantisation is
deprecated and keeps its weights in packed objects that only pickle saves; torchao 0.18 refuses int4 on processors.

Legend: O outputs, I inputs, G = I / 32 groups.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from recsys.decoders.dtypes import resolve_dtype
from recsys.errors import UserError

CPU_ALONE = "int4 weights are computed with on processors alone; use int8, or set gpus to 0"
_WORTH_BF16 = 2**15  # a product with fewer weights is done in fp32 before its parts are in bf16
GROUP = 32  # neighbouring weights of an output that share an int4 scale


class Int8Linear(nn.Module):
    """y = (x Wᵀ) · s + b with W [O, I] int8 and one scale s an output, the largest weight being 127 s."""

    weight: Tensor
    scale: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach().float()
        scale = weight.abs().amax(dim=1).clamp_min(1e-12) / 127
        self.register_buffer("weight", (weight / scale[:, None]).round().to(torch.int8))
        self.register_buffer("scale", scale)
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        dtype = resolve_dtype("auto", x.device) if self.weight.numel() >= _WORTH_BF16 else x.dtype
        y = functional.linear(x.to(dtype), self.weight.to(dtype)).to(x.dtype) * self.scale
        return y if self.bias is None else y + self.bias


class Int4Linear(nn.Module):
    """Weights of 4 bits, w = (q − 8) · s + z with q in 0..15, and s and z of every 32 neighbours in bf16.

    Sides are padded to what the kernel takes. In memory the weights lie as the kernel of this processor wants them; a
    state dict has them in an order of our own, two in a byte, the first in the low half.
    """

    weight: Tensor
    scales: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.outputs, self.inputs = linear.weight.shape
        padded = functional.pad(linear.weight.detach().float(), (0, -self.inputs % GROUP, 0, -self.outputs % 16))
        groups = padded.view(len(padded), -1, GROUP)
        low, high = groups.amin(2), groups.amax(2)
        scale = ((high - low) / 15).clamp_min(1e-12).bfloat16()
        zero = (low + 8 * scale.float()).bfloat16()
        q = ((groups - zero.float()[..., None]) / scale.float()[..., None] + 8).round().clamp(0, 15)
        self.register_buffer("weight", _for_kernel(q.flatten(1)))
        self.register_buffer("scales", torch.stack([scale.T, zero.T], dim=-1).contiguous())  # [G, O, 2]
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu":
            raise UserError(CPU_ALONE)
        rows = functional.pad(x.reshape(-1, self.inputs).bfloat16(), (0, -self.inputs % GROUP)).contiguous()
        y = torch.ops.aten._weight_int4pack_mm_for_cpu(rows, self.weight, GROUP, self.scales.bfloat16())
        y = y[:, : self.outputs].to(x.dtype).reshape(*x.shape[:-1], self.outputs)
        return y if self.bias is None else y + self.bias

    def unpack(self) -> Tensor:
        """q with its padding, uint8: the kernel's product of the identity with s = 1 and z = 8."""
        plain = torch.tensor([1.0, 8.0]).expand(self.scales.shape).bfloat16().contiguous()
        eye = torch.eye(len(self.scales) * GROUP, dtype=torch.bfloat16)
        return torch.ops.aten._weight_int4pack_mm_for_cpu(eye, self.weight, GROUP, plain).T.to(torch.uint8)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        q = self.unpack()
        destination[f"{prefix}weight"] = q[:, ::2] | (q[:, 1::2] << 4)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        if (pairs := state_dict.get(name := f"{prefix}weight")) is not None:
            q = torch.stack([pairs & 15, pairs >> 4], dim=2).flatten(1)
            state_dict = {**state_dict, name: _for_kernel(q)}
        super()._load_from_state_dict(state_dict, prefix, *rest)


def _for_kernel(q: Tensor) -> Tensor:
    """q in 0..15, [O, I], in the order of this processor's kernel, two in a byte."""
    return torch.ops.aten._convert_weight_to_int4pack_for_cpu(q.to(torch.int32).contiguous(), 1)


def numbers_and_bytes(module: nn.Module) -> tuple[int, int]:
    """How many numbers a module keeps and the bytes they take, scales of quantised weights included."""
    tensors = module.state_dict().values()
    pairs = sum(part.weight.numel() for part in module.modules() if isinstance(part, Int4Linear))
    numbers = sum(tensor.numel() for tensor in tensors) + pairs
    return numbers, sum(tensor.numel() * tensor.element_size() for tensor in tensors)
