"""The relaxed ranking likelihood of RRD (Kang et al., CIKM 2020), which DCD (CIKM 2021) uses as well.

Legend: P positions, K items in order, L items below them all.
"""

import torch
from torch import Tensor

_NONE = -1e9  # a logit of no weight: an infinite one has no gradient under logcumsumexp


def relaxed_ranking_loss(
    above_PK: Tensor, below_PL: Tensor, above_held: Tensor | None = None, below_held: Tensor | None = None
) -> Tensor:
    """−Σ_k [ y_k − log( Σ_{i ≥ k} exp(y_i) + Σ_j exp(y_j) ) ], summed over positions.

    The likelihood of the order of some items, all of them above some others among which no order is asked for.

    Args:
        above_PK: logits of the items in their order, best first; below_PL: of the others.
        above_held, below_held: bool, of the same shapes, which of them count; all where left out.
    """
    above_held = torch.ones_like(above_PK, dtype=torch.bool) if above_held is None else above_held
    above = above_PK.masked_fill(~above_held, _NONE)
    below = below_PL if below_held is None else below_PL.masked_fill(~below_held, _NONE)
    from_here = above.flip(1).logcumsumexp(1).flip(1)
    normaliser = torch.logaddexp(from_here, below.logsumexp(1, keepdim=True))
    return ((normaliser - above) * above_held).sum()
