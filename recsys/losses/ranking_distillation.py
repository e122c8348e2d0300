"""Importance-aware ranking distillation of DLLM2Rec (arXiv 2405.00338, eq. 4-11).

The weights of a row's K candidates add up to 1, on average over rows in the paper's form and in every row in that of
the code: λ is how much the teacher's list weighs beside the true item, whatever K and the γ.

Legend: P positions with teacher signals, K teacher candidates, N items, S rows.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from recsys.losses.config import RankingDistillationConfig
from recsys.losses.scores import CatalogueScores

_EPSILON = 1e-8  # of the reference code


def position_weights(k: int, beta: float) -> Tensor:
    """w^p ∝ exp(−r/β) over the ranks r = 1..K of the teacher's list, summing to 1 (eq. 6): [K]."""
    return torch.softmax(-torch.arange(1, k + 1) / beta, dim=0)


def confidence_weights(target_distance: Tensor, temperature: float) -> Tensor:
    """w^c ∝ exp(−d/T), one number per position (eq. 7), before it is divided by its mean over the training rows: [P].

    Args:
        target_distance: [P] distance d between what the teacher predicted and the true item; NaN (no distance) gives 0.
        temperature: T, in the unit of d. Distances of language models are large, so that exp(−d) itself would make
            every weight zero.
    """
    return torch.nan_to_num(torch.exp(-target_distance / temperature), nan=0.0)


def likeliest_temperature(distance: np.ndarray, held: np.ndarray) -> float | None:
    """The T at which exp(−d/T), read as the probability that the teacher's list holds the true item, is likeliest.

    With u = 1/T the log-likelihood Σ_held (−d u) + Σ_others log(1 − exp(−d u)) is concave: its slope is bisected.

    Args:
        distance: [S], NaN where there is none; held: [S] bool, whether the row's list holds its true item.

    Returns:
        None where rows do not tell: none has a distance, or all or none of them are held.
    """
    known = np.isfinite(distance)
    d, held = np.maximum(distance[known].astype(np.float64), 0.0), held[known]
    if held.all() or not held.any() or not d[held].sum() or not (d[~held] > 0).any():
        return None
    pull, others = d[held].sum(), d[~held][d[~held] > 0]

    def slope(u: float) -> float:
        with np.errstate(over="ignore"):
            return float((others / np.expm1(others * u)).sum() - pull)

    low, high = (float(np.log(1e-6 / d.max())), float(np.log(1e6 / others.min())))
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(np.exp(middle)) > 0 else (low, middle)
    return float(np.exp(-(low + high) / 2))


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


def paper_weights(
    teacher_PK: Tensor, confidence: Tensor, logits_PN: Tensor | None, config: RankingDistillationConfig
) -> Tensor:
    """w = (γ_p w^p + γ_c w^c / K + γ_o w^o / K) / (γ_p + γ_c + γ_o) (eq. 10): [P, K].

    What a row has of confidence and consistency is spread over its K candidates, as position is.

    Args:
        confidence: [P] w^c, 1 on average over the training rows.
        logits_PN: needed where γ_o is not 0.
    """
    k = teacher_PK.shape[1]
    weights = config.position * position_weights(k, config.beta).to(teacher_PK.device)
    weights = weights + config.confidence / k * confidence[:, None]
    if config.consistency:
        assert logits_PN is not None
        weights = weights + config.consistency / k * consistency_weights(teacher_PK, logits_PN)
    return weights / (config.position + config.confidence + config.consistency)


def soft_weights(scores_PK: Tensor, temperature: float) -> Tensor:
    """The teacher's probabilities of its candidates, softmax(score / T) (Hinton et al. 2015): [P, K].

    Args:
        scores_PK: the greater the better.
    """
    return torch.softmax(scores_PK / temperature, dim=1)


def code_weights(
    teacher_PK: Tensor, distance_PK: Tensor, logits_PN: Tensor, config: RankingDistillationConfig
) -> Tensor:
    """The weights of the authors' code, [P, K], summing to 1 in each row.

    Confidence is that in each candidate, exp(−d_si/T) by its own distance and shared out within the row; consistency is
    1 or nearly 0 a candidate, not shared out: one that both rank takes most of the row. β is 1.

    Args:
        distance_PK: [P, K] from what the teacher predicted to each candidate.
    """
    confidence = torch.exp(-distance_PK / (config.temperature or 1.0)) + _EPSILON
    weights = config.position * position_weights(teacher_PK.shape[1], 1.0).to(teacher_PK.device)
    weights = weights + config.confidence * confidence / confidence.sum(dim=1, keepdim=True)
    weights = weights + config.consistency * (consistency_weights(teacher_PK, logits_PN) + _EPSILON)
    return weights / weights.sum(dim=1, keepdim=True)


def ranking_distillation_loss(
    scores: CatalogueScores, teacher_PK: Tensor, weights_PK: Tensor, *, softmax: bool = False
) -> Tensor:
    """L_d = −Σ_s Σ_{i in the teacher's top K} w_si log σ(y_si) (eq. 5).

    What lies outside the teacher's top K is not touched so, and lowered together with `softmax`, which puts
    log softmax(y_s)_i in the place of log σ(y_si).

    Args:
        teacher_PK: [P, K] the teacher's items, best first. A row without signals holds zeros, and counts nothing.

    Returns:
        The sum over positions.
    """
    column = (teacher_PK - 1).clamp_min(0)
    if softmax:
        log_probability = scores.log_probability_PN.gather(1, column)
    else:
        log_probability = F.logsigmoid(scores.logits_PN.gather(1, column))
    return -(weights_PK * log_probability * (teacher_PK > 0)).sum()


def code_distillation_loss(
    scores: CatalogueScores,
    teacher_PK: Tensor,
    weights_PK: Tensor,
    negatives: Tensor,
    robust_PK: Tensor | None = None,
) -> Tensor:
    """What the authors' code computes: −Σ_s Σ_i w_si [log σ(y_si) + log σ(1 − y_s,neg)], plus the robust term.

    The negative is the same for all candidates of a row, and enters by log σ(1 − y) in place of log(1 − σ(y)). Robust
    terms are weighed by the mean of w_i over the rows at hand, not by the row's own weight: Σ_i mean_s(w_si) Σ_s r_si.

    Args:
        teacher_PK, weights_PK: as of `ranking_distillation_loss`.
        negatives: [P] items that are not the target.
        robust_PK: α times the robust term of each candidate (`dros_terms`), of students trained by it.
    """
    taught = (teacher_PK > 0).float()
    positive = F.logsigmoid(scores.logits_PN.gather(1, (teacher_PK - 1).clamp_min(0)))
    negative = F.logsigmoid(1 - scores.logits_PN.gather(1, negatives[:, None] - 1))
    loss = -(weights_PK * (positive + negative) * taught).sum()
    if robust_PK is not None:
        mean_K = (weights_PK * taught).sum(dim=0) / taught.sum(dim=0).clamp_min(1)
        loss = loss + (mean_K * (robust_PK * taught).sum(dim=0)).sum()
    return loss
