"""Smaller weights after training: fewer heads and neurons, low rank, 8 or 4 bits. None learns anything; depth stays.

They act on the linear layers of the decoder and combine with each other, in that order, and with any cut. A compressed
model is saved and loaded as any other: its checkpoint says how it was made, and loading lays its layers out alike.
"""

import copy
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from recsys.decoders.config import CompressionConfig, LowRankConfig
from recsys.decoders.quantised import CPU_ALONE, Int4Linear, Int8Linear
from recsys.errors import UserError

_QUANTISED: dict[str, Any] = {"int8": Int8Linear, "int4": Int4Linear}


class Layered(Protocol):
    """A module that reads by a decoder.

    Attributes:
        compression: how its weights were made smaller, None for not at all.
    """

    compression: CompressionConfig | None

    @property
    def decoder(self) -> Any:
        """The stack of layers."""

    @property
    def depth(self) -> int:
        """How many there are."""

    def eval(self) -> Any:
        """Switch dropout off."""


M = TypeVar("M", bound=Layered)


def compress(model: M, config: CompressionConfig) -> M:
    """A smaller copy.

    Raises:
        UserError: the model is compressed already, on a GPU where its weights shall be int4, or built otherwise than
            Llama is.
    """
    if model.compression is not None:
        raise UserError("the model is compressed already; compress the one that it was made from")
    if config.weights == "int4" and next(model.decoder.parameters()).device.type != "cpu":
        raise UserError(CPU_ALONE)
    made = copy.deepcopy(model)
    made.eval()
    _compress(made, config, values=True)
    return made


def lay_out(model: Layered, config: CompressionConfig) -> None:
    """Give a model the layers of a compressed one, whose values mean nothing until a checkpoint fills them."""
    _compress(model, config, values=False)


def _compress(model: Layered, config: CompressionConfig, *, values: bool) -> None:
    model.compression, rank = config, config.low_rank
    first = model.depth - max(1, round(rank.layers * model.depth)) if rank else model.depth
    for number, layer in enumerate(model.decoder.layers):
        if config.heads < 1:
            _prune_heads(layer, config.heads)
        if config.neurons < 1:
            _prune_neurons(layer, config.neurons)
        if rank and number >= first:
            for name, linear in _linears(layer):
                if any(part in rank.targets for part in name.split(".")):
                    _replace(layer, name, _low_rank(linear, rank, values))
        if config.weights != "fp32":
            for name, linear in _linears(layer):
                _replace(layer, name, _QUANTISED[config.weights](linear))


def _linears(layer: nn.Module) -> list[tuple[str, nn.Linear]]:
    return [(name, module) for name, module in layer.named_modules() if isinstance(module, nn.Linear)]


def _replace(layer: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(layer.get_submodule(parent), last, module)


def _low_rank(linear: nn.Linear, config: LowRankConfig, values: bool) -> nn.Module:
    """The best approximation of low rank: [O, r] and [r, I] in place of [O, I], where that is fewer numbers.

    After LASER (Sharma et al., ICLR 2024, arXiv 2312.13558), which picks single matrices of late layers.

    Args:
        values: compute the approximation, instead of the form alone.
    """
    weight = linear.weight.detach()
    rank = max(1, round(config.rank * min(weight.shape)))
    inner = nn.Linear(linear.in_features, rank, bias=False)
    outer = nn.Linear(rank, linear.out_features, bias=linear.bias is not None)
    if values:
        left, sizes, right = torch.linalg.svd(weight.float(), full_matrices=False)
        outer.weight.data.copy_(left[:, :rank] * sizes[:rank])
        inner.weight.data.copy_(right[:rank])
        if linear.bias is not None:
            outer.bias.data.copy_(linear.bias.detach())
    if rank * sum(weight.shape) >= weight.numel():
        if values:
            weight.copy_(outer.weight @ inner.weight)
        return linear
    return nn.Sequential(inner, outer).to(weight.device, weight.dtype)


def _prune_neurons(layer: Any, share: float) -> None:
    """Keep this share of a feed-forward layer's neurons, those with the largest product of norms.

    Its output is a sum over neurons, of row i of the gate and the up projection and column i of the down projection.
    """
    gate, up, down = (_linear(layer, "mlp", name) for name in ("gate_proj", "up_proj", "down_proj"))
    strength = gate.weight.norm(dim=1) * up.weight.norm(dim=1) * down.weight.norm(dim=0)
    kept = _strongest(strength, share)
    for linear in (gate, up):
        _keep_outputs(linear, kept)
    _keep_inputs(down, kept)


def _prune_heads(layer: Any, share: float) -> None:
    """Keep this share of a layer's attention heads, those with the largest product of norms of their four parts.

    Heads that share keys and values stay or go together.
    """
    q, k, v, o = (_linear(layer, "self_attn", name) for name in ("q_proj", "k_proj", "v_proj", "o_proj"))
    size, together = layer.self_attn.head_dim, layer.self_attn.num_key_value_groups
    parts = [q.weight, k.weight, v.weight, o.weight.T]
    strength = torch.stack([part.reshape(k.out_features // size, -1).norm(dim=1) for part in parts]).prod(dim=0)
    kept = _strongest(strength, share)

    def rows(width: int) -> Tensor:
        return (kept[:, None] * width + torch.arange(width, device=kept.device)).flatten()

    _keep_outputs(q, rows(size * together))
    for linear in (k, v):
        _keep_outputs(linear, rows(size))
    _keep_inputs(o, rows(size * together))


def _strongest(strength: Tensor, share: float) -> Tensor:
    return strength.topk(max(1, round(share * len(strength)))).indices.sort().values


def _keep_outputs(linear: nn.Linear, kept: Tensor) -> None:
    linear.weight = nn.Parameter(linear.weight.detach()[kept].clone())
    if linear.bias is not None:
        linear.bias = nn.Parameter(linear.bias.detach()[kept].clone())
    linear.out_features = len(kept)


def _keep_inputs(linear: nn.Linear, kept: Tensor) -> None:
    linear.weight = nn.Parameter(linear.weight.detach()[:, kept].clone())
    linear.in_features = len(kept)


def _linear(layer: Any, part: str, name: str) -> nn.Linear:
    """The linear layer itself; one from scratch has dropout behind it."""
    module = getattr(getattr(layer, part, None), name, None)
    found = module[0] if isinstance(module, nn.Sequential) else module
    if not isinstance(found, nn.Linear):
        raise UserError(f"only layers like Llama's can be pruned; these have no {part}.{name}, keep heads and neurons")
    return found
