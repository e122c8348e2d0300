"""Importance-aware ranking distillation of DLLM2Rec (arXiv 2405.00338, eq. 4-11).

Legend: P positions with teacher signals, K teacher candidates, N items.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from recsys.losses.config import RankingDistillationConfig
from recsys.losses.scores import CatalogueScores


def position_weights(k: int, beta: float) -> Tensor:
    """w^p ∝ exp(−r/β) over the ranks r = 1..K of the teacher's list, summing to 1 (eq. 6): [K]."""
    return torch.softmax(-torch.arange(1, k + 1) / beta, dim=0)


def confidence_weights(target_distance: Tensor, scale: float) -> Tensor:
    """w^c = exp(−d/scale), one number a position (eq. 7): [P].

    Args:
        target_distance: [P] distance d between what the teacher predicted and the true item; NaN (no distance) gives 0.
        scale: the median distance over the training rows. Distances of language models are large, so that exp(−d)
            itself would make every weight zero.
    """
    return torch.nan_to_num(torch.exp(-target_distance / scale), nan=0.0)


def consistency_weights(teacher_PK: Tensor, logits_PN: Tensor) -> Tensor:
    """w^o = 1 where the student's own top K holds the teacher's candidate, else 0 (eq. 8): [P, K] float.

    Args:
        teacher_PK: [P, K] items.
        logits_PN: [P, N] the student's.
    """
    with torch.no_grad():
        k = min(teacher_PK.shape[1], logits_PN.shape[1])
        threshold = logits_PN.topk(k, dim=1).values[:, -1:]
        return (logits_PN.gather(1, (teacher_PK - 1).clamp_min(0)) >= threshold).float()


def ranking_distillation_loss(
    scores: CatalogueScores,
    teacher_PK: Tensor,
    target_distance: Tensor,
    scale: float,
    config: RankingDistillationConfig,
) -> Tensor:
    """L_d = −Σ_s Σ_{i in the teacher's top K} w_si log σ(y_si), w = γ_p w^p + γ_c w^c + γ_o w^o (eq. 5, 10).

    What lies outside the teacher's top K is not touched in the `sigmoid` form, and lowered together in the `softmax`
    form, which puts log softmax(y_s)_i in the place of log σ(y_si).

    Args:
        teacher_PK: [P, K] the teacher's items, best first. A row without signals holds zeros, and counts nothing.
        target_distance: [P].
        scale: see `confidence_weights`.

    Returns:
        The sum over positions.
    """
    weights = config.position * position_weights(teacher_PK.shape[1], config.beta).to(teacher_PK.device)
    weights = weights + config.confidence * confidence_weights(target_distance, scale)[:, None]
    if config.consistency:
        weights = weights + config.consistency * consistency_weights(teacher_PK, scores.logits_PN)
    column = (teacher_PK - 1).clamp_min(0)
    if config.form == "sigmoid":
        log_probability = F.logsigmoid(scores.logits_PN.gather(1, column))
    else:
        log_probability = scores.log_probability_PN.gather(1, column)
    return -(weights * log_probability * (teacher_PK > 0)).sum()
