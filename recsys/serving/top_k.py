"""The best of very many scores.

Legend: B batch, N scores, K best.
"""

import torch
from torch import Tensor

BLOCK = 64
"""Scores whose largest is looked at first: only the K blocks with the largest of these can hold the K best."""

FEW = 2**16
"""Scores up to which `torch.topk` alone is faster."""

_LOW = 2**32 - 1


def top_k(scores_BN: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest scores of each row, largest first, and their places, [B, K] each; equal ones by their places.

    As `torch.topk`, which leaves the order of equal ones open, and for a million scores takes ten times as long.

    Args:
        scores_BN: float32 or int32, at least k in a row.
    """
    size = scores_BN.shape[1]
    if size <= max(FEW, 2 * k * BLOCK):
        return _sort_best(scores_BN, torch.arange(size, device=scores_BN.device).expand(scores_BN.shape), k)
    blocks = _blocks(scores_BN)
    chosen_BK = top_k(blocks.amax(dim=2), k)[1]
    inner = torch.arange(BLOCK, device=scores_BN.device)
    tail = torch.arange(blocks.shape[1] * BLOCK, size, device=scores_BN.device)
    places_BC = (chosen_BK[:, :, None] * BLOCK + inner).flatten(1)
    places_BC = torch.cat([places_BC, tail.expand(len(scores_BN), -1)], dim=1)
    return _sort_best(scores_BN.gather(1, places_BC), places_BC, k)


def find_at_least(scores_N: Tensor, least: float) -> Tensor:
    """The places of the scores that are not below `least`, ascending, [C] int64."""
    blocks = _blocks(scores_N[None])[0]
    chosen = (blocks.amax(dim=1) >= least).nonzero()[:, 0]
    block, inner = (blocks[chosen] >= least).nonzero(as_tuple=True)
    begin = blocks.numel()
    tail = (scores_N[begin:] >= least).nonzero()[:, 0]
    return torch.cat([chosen[block] * BLOCK + inner, tail + begin])


def _blocks(scores_BN: Tensor) -> Tensor:
    """[B, N // BLOCK, BLOCK], without what is left over at the end."""
    whole = scores_BN.shape[1] // BLOCK
    return scores_BN[:, : whole * BLOCK].unflatten(1, (whole, BLOCK))


def _sort_best(scores_BC: Tensor, places_BC: Tensor, k: int) -> tuple[Tensor, Tensor]:
    values, order = scores_BC.topk(k, dim=1)
    if bool(((scores_BC >= values[:, -1:]).sum(dim=1) > k).any()):  # the last one has equals that are left out
        order = _rank(scores_BC, places_BC).topk(k, dim=1).indices
    else:
        order = order.gather(1, _rank(values, places_BC.gather(1, order)).argsort(dim=1, descending=True))
    return scores_BC.gather(1, order), places_BC.gather(1, order)


def _rank(scores: Tensor, places: Tensor) -> Tensor:
    """Integers that are all different: the score above, and below it the place, small ones first."""
    bits = scores if scores.dtype == torch.int32 else _to_ordered(scores)
    return (bits.long() << 32) + (_LOW - places)


def _to_ordered(scores: Tensor) -> Tensor:
    """int32 in the order of float32: the bits of negative numbers ascend with their size and are turned round."""
    bits = (scores + 0.0).view(torch.int32)  # -0 becomes 0
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)
