"""Cross-entropy over the whole catalogue without ever holding its scores.

At P = 600 positions and N = 12,000 items the scores are 29 MB, which a softmax and its gradient read and write again
and again from main memory. Here those of a few positions at a time stay in the processor's cache: scores, normalisation
and both gradients are computed there, in the forward pass, and nothing of size P × N is kept.

Legend: P positions, N items, D width, S items a position has probability for.
"""

from typing import Any

import torch
from torch import Tensor

_CACHED = 1 << 20  # scores a piece holds, 4 MB of float32


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_PD: Tensor, vectors_ND: Tensor, items_PS: Tensor, mass_PS: Tensor, uniform: float
    ) -> Tensor:
        needs_gradient = any(ctx.needs_input_grad[:2])
        grad_PD, grad_ND = torch.empty_like(hidden_PD), torch.zeros_like(vectors_ND)
        loss = hidden_PD.new_zeros((), dtype=torch.float64)
        items, columns = len(vectors_ND), max(1, _CACHED // len(vectors_ND))
        for begin in range(0, len(hidden_PD), columns):
            part = slice(begin, begin + columns)
            hidden, chosen, mass = hidden_PD[part], items_PS[part].T, mass_PS[part].T
            scores = vectors_ND @ hidden.T  # items down: the product is twice as fast this way round
            total = mass.sum(0) + uniform
            loss -= (scores.gather(0, chosen) * mass).sum()
            if uniform:
                loss -= scores.sum() * (uniform / items)
            largest = scores.amax(0)
            scores.sub_(largest).exp_()
            sums = scores.sum(0)
            loss += (total * (largest + sums.log())).sum()
            if not needs_gradient:
                continue
            scores.mul_(total / sums)
            if uniform:
                scores.sub_(uniform / items)
            scores.scatter_add_(0, chosen, -mass)
            torch.mm(scores.T, vectors_ND, out=grad_PD[part])
            grad_ND.addmm_(scores, hidden)
        ctx.save_for_backward(grad_PD, grad_ND)
        return loss.to(hidden_PD.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        grad_PD, grad_ND = ctx.saved_tensors
        return grad_PD * gradient, grad_ND * gradient, None, None, None


def catalogue_cross_entropy(
    hidden_PD: Tensor, vectors_ND: Tensor, items_PS: Tensor, mass_PS: Tensor, *, uniform: float = 0.0
) -> Tensor:
    """−Σ_p Σ_j q_pj log softmax(h_p · v)_j; q is what `items` and `mass` say, and `uniform` / N of every item.

    Gradients flow to `hidden_PD` and `vectors_ND`. Time is that of three matrix products P × D × N, memory a few MB.

    Args:
        vectors_ND: the items 1..N, padding left out.
        items_PS: columns of `vectors_ND`, 0..N−1; one may be named more than once.
        mass_PS: their probability; a position's need not sum to one.
    """
    with torch.autocast(hidden_PD.device.type, enabled=False):
        loss: Tensor = _CrossEntropy.apply(hidden_PD.float(), vectors_ND.float(), items_PS, mass_PS.float(), uniform)
    return loss
