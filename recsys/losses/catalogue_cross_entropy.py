"""Cross-entropy over the whole catalogue without ever holding its scores.

At P = 600 positions and N = 12,000 items the scores are 29 MB, which a softmax and its gradient read and write again
and again from main memory. Here those of a few positions at a time stay in the processor's cache: scores, normalisation
and both gradients are computed there, in the forward pass, and nothing of size P × N is kept.

Legend: P positions, C of them at a time, N items, D width, S items a position has probability for.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

AT_A_TIME = 32  # positions, C: the products reach their full speed there, and the scores of a small catalogue fit


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_PD: Tensor, vectors_ND: Tensor, items_PS: Tensor, mass_PS: Tensor, uniform: float
    ) -> Tensor:
        learns = any(ctx.needs_input_grad[:2])
        grad_PD, grad_ND = torch.empty_like(hidden_PD), torch.zeros_like(vectors_ND)
        loss = hidden_PD.new_zeros((), dtype=torch.float64)
        total_P = mass_PS.sum(1) + uniform
        mean_D = vectors_ND.mean(0) if uniform else vectors_ND.new_zeros(vectors_ND.shape[1])
        scores_NC = vectors_ND.new_empty(len(vectors_ND), AT_A_TIME)  # items down: twice as fast as the other way
        for begin in range(0, len(hidden_PD), AT_A_TIME):
            part = slice(begin, begin + AT_A_TIME)
            hidden_CD, total_C, items_CS, mass_CS = hidden_PD[part], total_P[part], items_PS[part], mass_PS[part]
            if len(hidden_CD) < AT_A_TIME:
                scores_NC = vectors_ND.new_empty(len(vectors_ND), len(hidden_CD))
            torch.mm(vectors_ND, hidden_CD.T, out=scores_NC)
            largest_C = scores_NC.amax(0)
            scores_NC.sub_(largest_C).exp_()
            sum_C = scores_NC.sum(0)
            # Σ_j q_j v_j, from which both the loss and its gradient take what q says of the scores.
            chosen_CD = torch.einsum("cs,csd->cd", mass_CS, vectors_ND[items_CS]) + uniform * mean_D
            loss += (total_C * (largest_C + sum_C.log())).sum() - (hidden_CD * chosen_CD).sum()
            if not learns:
                continue
            scale_C1 = (total_C / sum_C)[:, None]
            torch.addmm(chosen_CD, scores_NC.T, vectors_ND, beta=0, out=grad_PD[part])
            grad_PD[part].mul_(scale_C1).sub_(chosen_CD)
            grad_ND.addmm_(scores_NC, scale_C1 * hidden_CD)
            given_CSD = mass_CS[:, :, None] * hidden_CD[:, None]
            grad_ND.index_add_(0, items_CS.flatten(), given_CSD.flatten(0, 1), alpha=-1)
        if learns and uniform:
            grad_ND.sub_(hidden_PD.sum(0), alpha=uniform / len(vectors_ND))
        ctx.save_for_backward(grad_PD, grad_ND)
        return loss.to(hidden_PD.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        grad_PD, grad_ND = ctx.saved_tensors
        return grad_PD * gradient, grad_ND * gradient, None, None, None


def catalogue_cross_entropy(
    hidden_PD: Tensor, vectors_ND: Tensor, items_PS: Tensor, mass_PS: Tensor, *, uniform: float = 0.0
) -> Tensor:
    """−Σ_p Σ_j q_pj log softmax(h_p · v)_j; q is what `items` and `mass` say, and `uniform` / N of every item.

    Gradients flow to `hidden_PD` and `vectors_ND`. Time is that of three matrix products P × D × N, memory a few MB.

    Args:
        hidden_PD, vectors_ND: float32; the items are 1..N, padding left out.
        items_PS: columns of `vectors_ND`, 0..N−1; one may be named more than once.
        mass_PS: their probability; a position's need not sum to one.
    """
    loss: Tensor = _CrossEntropy.apply(hidden_PD, vectors_ND, items_PS, mass_PS, uniform)
    return loss
