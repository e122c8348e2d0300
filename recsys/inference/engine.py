"""The inference engine of a teacher pass: a recommender behind DeepSpeed's inference engine.

Legend: B batch, L history, N items, D width.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from recsys.decoders.dtypes import resolve_dtype
from recsys.decoders.splitting import decoders, inject_kernels, split
from recsys.errors import UserError
from recsys.histories import Histories
from recsys.model import CausalRecommender
from recsys.processes import import_deepspeed


class TeacherEngine:
    """A teacher ready to score, its item vectors computed once.

    `deepspeed.init_inference` brings the model to the wanted type and device and, where there is more than one process
    a model, splits it (tensor parallelism, `recsys.inference.replica`). With one process it is a plain wrapper: on CPU
    what makes the pass faster is bf16, not DeepSpeed.

    Attributes:
        vectors: [N+1, D] float32, row 0 zero. Computed in fp32 whatever the type of the engine, because scores of
            bf16 vectors would tie.
        dtype: the type that `hidden` computes in.
    """

    def __init__(
        self,
        model: CausalRecommender,
        dtype: str = "auto",
        device: str | torch.device = "cpu",
        *,
        tensor_parallel: int = 1,
        kernel_injection: bool = False,
    ) -> None:
        """Take over `model`: it is converted in place.

        Args:
            dtype: auto, fp32, bf16 or fp16; auto is bf16 where the processor computes in it, otherwise fp32.
            tensor_parallel, kernel_injection: see `inference_engine`.

        Raises:
            UserError: fp16 on a processor without it, or item vectors that are not finite.
        """
        self.device = torch.device(device)
        self.dtype = resolve_dtype(dtype, self.device)
        if tensor_parallel == 1:  # a model that is to be split need not fit the device
            model = model.to(self.device)
        model = model.float().eval()
        with torch.inference_mode():
            self.vectors = model.item_vectors().detach().to(self.device)  # not the weights, which are converted
        check_finite(self.vectors)
        if tensor_parallel > 1 and "compression" in model.layout():
            raise UserError("signals.tensor_parallel cannot part the matrices of a compressed teacher; set it to 1")
        self._model: Any = model
        self._engine = inference_engine(
            _Hidden(model),
            self.dtype,
            self.device,
            tensor_parallel=tensor_parallel,
            kernel_injection=kernel_injection,
        )

    @torch.inference_mode()
    def hidden(self, histories: Histories) -> Tensor:
        """[B, L, D] float32; their products with `vectors` are the logits."""
        return self._engine(histories.to(self.device), self.vectors).to(self.dtype).float()

    @torch.inference_mode()
    def states(self, histories: Histories, layers: Sequence[int]) -> Tensor:
        """[B, L, len(layers), H]: what a `LayeredTeacher` has after each of `layers`."""
        found = self._model.states(histories.to(self.device), layers, self.vectors)
        return torch.stack([found[layer] for layer in layers], dim=2)


def check_finite(vectors: Tensor) -> None:
    """Raise a `UserError` where item vectors are not numbers; part by part, for the check takes more than they do."""
    if not all(bool(torch.isfinite(part).all()) for part in vectors.split(65536)):
        raise UserError("the teacher's item vectors are not all finite; its checkpoint is not usable, train it again")


def inference_engine(
    module: nn.Module,
    dtype: torch.dtype,
    device: torch.device,
    *,
    tensor_parallel: int = 1,
    kernel_injection: bool = False,
) -> Any:
    """`module` behind DeepSpeed's inference engine, converted in place.

    Its buffers stay as they are: rotary frequencies in bf16 would turn late positions by a wrong angle.

    Args:
        tensor_parallel: this process and its peers of the default process group each keep a part of the decoder.
        kernel_injection: put DeepSpeed's own kernels in the place of the decoder's layers.

    Raises:
        UserError: the decoder cannot be split or has no kernels.
    """
    deepspeed = import_deepspeed(device)
    buffers = {name: buffer.to(device) for name, buffer in module.named_buffers()}
    if tensor_parallel > 1:
        for decoder in decoders(module):
            split(decoder, dtype, device, tensor_parallel)
    if kernel_injection:
        for decoder in decoders(module):
            inject_kernels(decoder, dtype, device)
    # What is put back is not converted either: tables of a million items are among the buffers.
    _set_buffers(module, {name: buffer.new_empty(0) for name, buffer in buffers.items()})
    engine = deepspeed.init_inference(module.to(device), dtype=dtype, replace_with_kernel_inject=False)
    _set_buffers(module, buffers)
    return engine


def _set_buffers(module: nn.Module, buffers: dict[str, Tensor]) -> None:
    for name, buffer in buffers.items():
        owner, _, leaf = name.rpartition(".")
        setattr(module.get_submodule(owner), leaf, buffer)


class _Hidden(nn.Module):
    """`CausalRecommender.hidden` as a forward pass, which is what engines call."""

    def __init__(self, model: CausalRecommender) -> None:
        super().__init__()
        self.model = model

    def forward(self, histories: Histories, vectors: Tensor) -> Tensor:
        return self.model.hidden(histories, vectors)
