"""What DeepSpeed does to a decoder besides wrapping it: AutoTP parts matrices, injected kernels replace layers."""

import contextlib
import io
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from recsys.errors import UserError
from recsys.processes import import_deepspeed

_ROWS = ("o_proj", "down_proj")  # split by their inputs, all others by their outputs


def decoders(module: nn.Module) -> list[Any]:
    """The transformers models within, without those that are part of another."""
    from transformers import PreTrainedModel

    found: list[Any] = [part for part in module.modules() if isinstance(part, PreTrainedModel)]
    inside = {id(part) for model in found for part in model.modules() if part is not model}
    return [model for model in found if id(model) not in inside]


def split(decoder: Any, dtype: torch.dtype, device: torch.device, size: int) -> None:
    """Keep this process's part of a decoder; its peers keep theirs. In place.

    Attention is split by heads, the feed-forward network by neurons; sums over the processes follow both and, where
    there is one, the language model's head. Adapters (LoRA) of split matrices are split with them.

    Raises:
        UserError: the heads do not divide, or adapters sit where they cannot be split.
    """
    config = decoder.config
    heads = {"attention heads": config.num_attention_heads, "key-value heads": config.num_key_value_heads}
    for what, number in heads.items():
        if number % size:
            raise UserError(
                f"signals.tensor_parallel is {size}, but the teacher has {number} {what}, which {size} does not "
                "divide; choose a divisor"
            )
    _undress(decoder)
    with contextlib.redirect_stdout(io.StringIO()):  # it prints what it parts
        import_deepspeed(device).init_inference(
            decoder, dtype=dtype, tensor_parallel={"tp_size": size}, replace_with_kernel_inject=False
        )


def inject_kernels(decoder: Any, dtype: torch.dtype, device: torch.device) -> None:
    """Put DeepSpeed's kernels in the place of a decoder's layers. In place; not tried on any GPU yet.

    Raises:
        UserError: there is no GPU, or DeepSpeed has none for this architecture.
    """
    if device.type != "cuda":
        raise UserError("signals.kernel_injection needs a GPU; set signals.gpus=1, or leave it out")
    deepspeed = import_deepspeed(device)
    from deepspeed.module_inject.auto_tp import AutoTP

    if not AutoTP.kernel_supported(AutoTP.get_module_list(decoder)):
        raise UserError(
            f"signals.kernel_injection: DeepSpeed has no kernels for {decoder.config.model_type}; leave it out, and "
            "split large models by signals.tensor_parallel"
        )
    deepspeed.init_inference(decoder, dtype=dtype, replace_with_kernel_inject=True, return_tuple=False)


def _undress(decoder: Any) -> None:
    """Bring the layers to the form that AutoTP knows: no dropout beside a matrix, and the inner matrix of an adapter
    left whole."""
    for parent in list(decoder.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Sequential) and isinstance(child[0], nn.Linear) and name in _ROWS:
                setattr(parent, name, child[0])  # the rest is dropout, which is off
            elif hasattr(child, "lora_A"):
                if name in _ROWS:
                    raise UserError(
                        f"signals.tensor_parallel cannot part the adapters of {name}; train them on "
                        "q_proj, k_proj, v_proj, gate_proj or up_proj, or set signals.tensor_parallel=1"
                    )
                for adapter, inner in list(child.lora_A.items()):
                    child.lora_A[adapter] = _Whole(inner.weight)


class _Whole(nn.Module):
    """A linear layer without bias that AutoTP does not take for one."""

    def __init__(self, weight: nn.Parameter) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight)
