"""What distillers draw, by PyTorch's generator.

Legend: P positions, K candidates, E items to leave out.
"""

import torch
from torch import Tensor


def draw_distinct(log_weight_PK: Tensor, count: int) -> Tensor:
    """[P, count] columns drawn without replacement, with probability in proportion to exp(log weight).

    The Gumbel-top-k trick (Kool et al., ICML 2019): one pass, and none where there are no rows. Columns of weight zero
    (log −∞) come last.
    """
    return (log_weight_PK + _gumbel(log_weight_PK.shape, log_weight_PK)).topk(count, dim=1).indices


def draw_columns(log_weight_PK: Tensor, count: int) -> Tensor:
    """[P, count] columns drawn with replacement, with probability in proportion to exp(log weight)."""
    p, k = log_weight_PK.shape
    return (log_weight_PK[:, None, :] + _gumbel((p, count, k), log_weight_PK)).argmax(dim=2)


def draw_others(left_out_PE: Tensor, num_items: int, count: int) -> Tensor:
    """[P, count] items (1..N) drawn evenly, with replacement, from those that are not left out.

    Args:
        left_out_PE: items (1..N), fewer than N; one may stand there twice.
    """
    ordered = left_out_PE.sort(dim=1).values - 1
    again = torch.zeros_like(ordered, dtype=torch.bool)
    again[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    ordered = ordered.masked_fill(again, 2 * num_items).sort(dim=1).values
    free = num_items - (~again).sum(dim=1, keepdim=True)
    drawn = (torch.rand(len(left_out_PE), count, device=left_out_PE.device) * free).long().minimum(free - 1)
    free_before = ordered - torch.arange(ordered.shape[1], device=ordered.device)
    return drawn + (free_before[:, None, :] <= drawn[:, :, None]).sum(dim=2) + 1


def _gumbel(shape: tuple[int, ...], like: Tensor) -> Tensor:
    uniform = torch.rand(shape, device=like.device, dtype=torch.float64).clamp_min(1e-300)
    return -torch.log(-torch.log(uniform)).to(like.dtype)
