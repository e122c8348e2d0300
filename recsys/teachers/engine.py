"""The inference engine of a teacher pass: a recommender behind DeepSpeed's inference engine.

Legend: B batch, L history, N items, D width.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from recsys.errors import UserError
from recsys.model import SequentialRecommender
from recsys.training.engine import import_deepspeed

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class TeacherEngine:
    """A teacher ready to score, its item vectors computed once.

    `deepspeed.init_inference` brings the model to the wanted type and device and, on GPUs with more than one process a
    model, splits it (tensor parallelism). With one process, as here, it is a plain wrapper: on CPU what makes the pass
    faster is bf16, not DeepSpeed.

    Attributes:
        vectors: [N+1, D] float32, row 0 zero. Computed in fp32 whatever the type of the engine, because scores of
            bf16 vectors would tie.
        dtype: the type that `hidden` computes in.
    """

    def __init__(self, model: SequentialRecommender, dtype: str = "auto", device: str | torch.device = "cpu") -> None:
        """Take over `model`: it is converted in place.

        Args:
            dtype: auto, fp32, bf16 or fp16; auto is bf16 where the processor computes in it, otherwise fp32.

        Raises:
            UserError: fp16 on a processor without it, or item vectors that are not finite.
        """
        self.device = torch.device(device)
        self.dtype = resolve_dtype(dtype, self.device)
        model = model.to(self.device).float().eval()
        with torch.inference_mode():
            self.vectors = model.item_vectors()
        if not bool(torch.isfinite(self.vectors).all()):
            raise UserError(
                "the teacher's item vectors are not all finite; its checkpoint is not usable, train it again"
            )
        self._model: Any = model
        self._engine = inference_engine(_Hidden(model), self.dtype, self.device)
        self._inputs = self.vectors.to(self.dtype)

    @torch.inference_mode()
    def hidden(self, items: Tensor) -> Tensor:
        """[B, L, D] float32 from [B, L] int64 padded with 0 on the right; times `vectors.T` they are the logits."""
        return self._engine(items.to(self.device), self._inputs).float()

    @torch.inference_mode()
    def states(self, items: Tensor, layers: Sequence[int]) -> Tensor:
        """[B, L, len(layers), H] of items as in `hidden`: what a `LayeredTeacher` has after each of `layers`."""
        found = self._model.states(items.to(self.device), layers, self._inputs)
        return torch.stack([found[layer] for layer in layers], dim=2)


def inference_engine(module: nn.Module, dtype: torch.dtype, device: torch.device) -> Any:
    """`module` behind DeepSpeed's inference engine, converted in place.

    Its buffers stay as they are: rotary frequencies in bf16 would turn late positions by a wrong angle.
    """
    deepspeed = import_deepspeed(device)
    buffers = dict(module.named_buffers())
    engine = deepspeed.init_inference(module, dtype=dtype, replace_with_kernel_inject=False)
    for name, buffer in buffers.items():
        owner, _, leaf = name.rpartition(".")
        setattr(module.get_submodule(owner), leaf, buffer)
    return engine


class _Hidden(nn.Module):
    """`SequentialRecommender.hidden` as a forward pass, which is what engines call."""

    def __init__(self, model: SequentialRecommender) -> None:
        super().__init__()
        self.model = model

    def forward(self, items: Tensor, vectors: Tensor) -> Tensor:
        return self.model.hidden(items, vectors)


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
