"""Smaller weights after training: int8, low rank, fewer neurons. None learns anything; all leave depth as it is.

They act on the linear layers of the decoder and combine with any cut. Compressed models are measured and served from
memory; a checkpoint stays what was trained.
"""

import copy
import warnings
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from recsys.errors import UserError
from recsys.teachers.config import LowRankConfig
from recsys.teachers.layered import LayeredTeacher

M = TypeVar("M", bound=LayeredTeacher)


def int8(model: M) -> M:
    """A copy whose decoder keeps its weights as int8, one scale an output, and quantises what it reads as it goes
    (PyTorch's dynamic quantisation, on processors alone).

    Raises:
        UserError: the model is on a GPU, or this PyTorch has no dynamic quantisation.
    """
    if next(model.parameters()).device.type != "cpu":
        raise UserError("int8 is PyTorch's dynamic quantisation, which runs on processors; set evaluation.gpus=0")
    try:
        from torch.ao.quantization import per_channel_dynamic_qconfig, quantize_dynamic
    except ImportError:
        raise UserError("this PyTorch has no dynamic quantisation; leave int8 out of depth.compress") from None
    made = copy.deepcopy(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated in favour of a package of its own
        for layer in made.decoder.layers:
            quantize_dynamic(layer, {nn.Linear: per_channel_dynamic_qconfig}, dtype=torch.qint8, inplace=True)
    return made


def low_rank(model: M, config: LowRankConfig) -> M:
    """A copy in whose last layers some matrices are replaced by their best approximation of low rank.

    After LASER (Sharma et al., ICLR 2024, arXiv 2312.13558), which picks single matrices of late layers. A matrix
    [O, I] becomes two, [O, r] and [r, I], where that is fewer numbers; otherwise it keeps its form.
    """
    made = copy.deepcopy(model)
    first = made.depth - max(1, round(config.layers * made.depth))
    for layer in made.decoder.layers[first:]:
        for name, module in list(layer.named_modules()):
            if isinstance(module, nn.Linear) and any(part in config.targets for part in name.split(".")):
                parent, _, last = name.rpartition(".")
                setattr(layer.get_submodule(parent), last, _reduced(module, config.rank))
    return made


def pruned(model: M, neurons: float) -> M:
    """A copy that keeps this share of each feed-forward layer's neurons (structured pruning by magnitude).

    The output is a sum over neurons, of row i of the gate and the up projection and column i of the down projection;
    those with the largest product of the three norms stay.

    Raises:
        UserError: the decoder's feed-forward layers are not gated as Llama's are.
    """
    made = copy.deepcopy(model)
    for layer in made.decoder.layers:
        gate, up, down = (_linear(getattr(layer.mlp, name, None)) for name in ("gate_proj", "up_proj", "down_proj"))
        strength = gate.weight.norm(dim=1) * up.weight.norm(dim=1) * down.weight.norm(dim=0)
        kept = strength.topk(max(1, round(neurons * len(strength)))).indices.sort().values
        for linear in (gate, up):
            linear.weight = nn.Parameter(linear.weight.detach()[kept].clone())
            if linear.bias is not None:
                linear.bias = nn.Parameter(linear.bias.detach()[kept].clone())
            linear.out_features = len(kept)
        down.weight = nn.Parameter(down.weight.detach()[:, kept].clone())
        down.in_features = len(kept)
    return made


def _linear(module: Any) -> nn.Linear:
    """The linear layer itself; one from scratch has dropout behind it."""
    found = module[0] if isinstance(module, nn.Sequential) else module
    if not isinstance(found, nn.Linear):
        raise UserError("only gated feed-forward layers can be pruned; leave pruned out of depth.compress")
    return found


def _reduced(linear: nn.Linear, share: float) -> nn.Module:
    left, values, right = torch.linalg.svd(linear.weight.detach().float(), full_matrices=False)
    rank = max(1, round(share * len(values)))
    wide, narrow = left[:, :rank] * values[:rank], right[:rank]
    if rank * (linear.in_features + linear.out_features) >= linear.weight.numel():
        linear.weight.data.copy_(wide @ narrow)
        return linear
    inner = nn.Linear(linear.in_features, rank, bias=False)
    outer = nn.Linear(rank, linear.out_features, bias=linear.bias is not None)
    inner.weight.data.copy_(narrow)
    outer.weight.data.copy_(wide)
    if linear.bias is not None:
        outer.bias.data.copy_(linear.bias.data)
    return nn.Sequential(inner, outer).to(linear.weight.device, linear.weight.dtype).train(linear.training)


def numbers_and_bytes(module: nn.Module) -> tuple[int, int]:
    """How many numbers a module keeps and the bytes they take, quantised weights with their scales included."""
    tensors = [tensor for tensor in _values(module.state_dict()) if isinstance(tensor, Tensor)]
    count = sum(tensor.numel() for tensor in tensors)
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    scales = sum(tensor.q_per_channel_scales().numel() for tensor in tensors if tensor.is_quantized)
    return count, size + 4 * scales


def _values(value: Any) -> list[Any]:
    """Everything in nested dicts and tuples: a quantised layer's state is one tuple of weight and bias."""
    if isinstance(value, dict):
        return [inner for entry in value.values() for inner in _values(entry)]
    if isinstance(value, tuple | list):
        return [inner for entry in value for inner in _values(entry)]
    return [value]
