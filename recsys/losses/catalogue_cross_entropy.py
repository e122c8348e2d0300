"""Cross-entropy over the whole catalogue without ever holding its scores.

At P = 600 positions and N = 12,000 items the scores are 29 MB, which a softmax and its gradient read and write again
and again from main memory. Here those of a few positions at a time stay in the processor's cache: scores, normalisation
and both gradients are computed there, in the forward pass, and nothing of size P × N is kept.

Under autocast to bfloat16 the products and the exponential are computed in it, and summed up in float32: on a processor
that multiplies bfloat16 an epoch's losses take half the time.

Legend: P positions, C of them at a time, N items, D width, S items a position has probability for.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Positions, C: the products reach their full speed there, and the scores of a small catalogue fit.
AT_A_TIME = {torch.float32: 32, torch.float64: 32, torch.bfloat16: 128}


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_PD: Tensor, vectors_ND: Tensor, items_PS: Tensor, mass_PS: Tensor, uniform: float
    ) -> tuple[Tensor, Tensor]:
        kind = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else vectors_ND.dtype
        with torch.autocast("cpu", enabled=False):
            loss, normaliser_P, gradients = _compute(
                hidden_PD, vectors_ND, items_PS, mass_PS, uniform, kind, learns=any(ctx.needs_input_grad[:2])
            )
        ctx.save_for_backward(*gradients)
        ctx.mark_non_differentiable(normaliser_P)
        return loss, normaliser_P

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        grad_PD, grad_ND = ctx.saved_tensors
        return grad_PD * gradient, grad_ND * gradient, None, None, None


def _compute(
    hidden_PD: Tensor,
    vectors_ND: Tensor,
    items_PS: Tensor,
    mass_PS: Tensor,
    uniform: float,
    kind: torch.dtype,
    *,
    learns: bool,
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    """Loss, normalisers and both gradients; products in the precision `kind`."""
    grad_PD, grad_ND = torch.empty_like(hidden_PD), torch.zeros_like(vectors_ND)
    loss, normaliser_P = hidden_PD.new_zeros((), dtype=torch.float64), hidden_PD.new_empty(len(hidden_PD))
    mean_D = vectors_ND.mean(0) if uniform else vectors_ND.new_zeros(vectors_ND.shape[1])
    hidden, vectors = hidden_PD.to(kind), vectors_ND.to(kind)
    at_a_time = AT_A_TIME[kind]
    scores_NC = vectors.new_empty(len(vectors), min(at_a_time, len(hidden)))  # items down: twice as fast as across
    for begin in range(0, len(hidden), at_a_time):
        part = slice(begin, begin + at_a_time)
        items_SC, mass_SC = items_PS[part].T, mass_PS[part].T
        if items_SC.shape[1] < scores_NC.shape[1]:
            scores_NC = vectors.new_empty(len(vectors), items_SC.shape[1])
        torch.mm(vectors, hidden[part].T, out=scores_NC)
        chosen_SC = scores_NC.gather(0, items_SC).to(mass_SC.dtype)
        largest_C = scores_NC.amax(0)
        sum_C = scores_NC.sub_(largest_C).exp_().sum(0, dtype=grad_ND.dtype)
        normaliser_P[part] = largest_C + sum_C.log()
        total_C = mass_SC.sum(0) + uniform
        # Σ_j q_j score_j, which the normaliser is compared with.
        loss += (total_C * normaliser_P[part]).sum() - (mass_SC * chosen_SC).sum()
        if uniform:
            loss -= uniform * (hidden_PD[part] @ mean_D).sum()
        if not learns:
            continue
        # The gradient by a score is total · softmax − q, here divided by total / sum, which the small sides carry.
        scale_C = (total_C / sum_C).clamp_min(torch.finfo(sum_C.dtype).tiny)
        scores_NC.scatter_add_(0, items_SC, (-mass_SC / scale_C).to(kind))
        grad_PD[part] = torch.mm(scores_NC.T, vectors) * scale_C[:, None]
        if uniform:
            grad_PD[part] -= uniform * mean_D
        scaled_CD = (hidden_PD[part] * scale_C[:, None]).to(kind)
        if kind == grad_ND.dtype:
            grad_ND.addmm_(scores_NC, scaled_CD)
        else:
            grad_ND += torch.mm(scores_NC, scaled_CD)
    if learns and uniform:
        grad_ND.sub_(hidden_PD.sum(0), alpha=uniform / len(vectors_ND))
    return loss.to(hidden_PD.dtype), normaliser_P, (grad_PD, grad_ND)


def catalogue_cross_entropy(
    hidden_PD: Tensor, vectors_ND: Tensor, items_PS: Tensor, mass_PS: Tensor, *, uniform: float = 0.0
) -> tuple[Tensor, Tensor]:
    """−Σ_p Σ_j q_pj log softmax(h_p · v)_j; q is what `items` and `mass` say, and `uniform` / N of every item.

    Gradients flow to `hidden_PD` and `vectors_ND`. Time is that of three matrix products P × D × N, memory a few MB.

    Args:
        hidden_PD, vectors_ND: float32; the items are 1..N, padding left out.
        items_PS: columns of `vectors_ND`, 0..N−1; one may be named more than once.
        mass_PS: their probability; a position's need not sum to one.

    Returns:
        The loss, and log Σ_j exp(h_p · v_j), [P] without gradient.
    """
    found: tuple[Tensor, Tensor] = _CrossEntropy.apply(hidden_PD, vectors_ND, items_PS, mass_PS, uniform)
    return found
