"""Losses on the true next item.

Legend: P positions with a target, N items, D width, M negatives.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recsys.losses.catalogue_cross_entropy import catalogue_cross_entropy
from recsys.losses.config import RecommendationLossConfig
from recsys.losses.scores import CatalogueScores


def softmax_loss(scores: CatalogueScores, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy over the whole catalogue, summed over positions.

    Args:
        targets: [P] in 1..N.
        label_smoothing: share ε of the target's probability that is spread evenly over all items.
    """
    log_probability = scores.log_probability_PN
    loss = -log_probability.gather(1, targets[:, None] - 1).sum()
    if label_smoothing:
        loss = (1 - label_smoothing) * loss - label_smoothing * log_probability.mean(1).sum()
    return loss


def bce_loss(positive: Tensor, negative_PM: Tensor) -> Tensor:
    """Binary cross-entropy −log σ(y_t) − Σ_j log(1 − σ(y_j)), summed over positions (DLLM2Rec eq. 3).

    Args:
        positive: [P] logits of the targets.
        negative_PM: [P, M] logits of the negatives.
    """
    return -F.logsigmoid(positive).sum() - F.logsigmoid(-negative_PM).sum()


def dros_term(scores: CatalogueScores, targets: Tensor, propensity: Tensor, beta: float) -> Tensor:
    """The distributionally robust term of DROS as DLLM2Rec's reference code computes it, summed over positions.

    Σ_s log( Σ_i exp(p_i y_i² / β) − exp(p_t y_t² / β) + exp(p_t (y_t − 1)² / β) ), as one stable log-sum-exp in which
    the target's term is replaced rather than subtracted.

    Args:
        targets: [P] in 1..N.
        propensity: [N] p_i (`propensities`).
    """
    column, logits_PN = targets[:, None] - 1, scores.logits_PN
    exponent = propensity * logits_PN.square() / beta
    replaced = propensity[column] * (logits_PN.gather(1, column) - 1).square() / beta
    return exponent.scatter(1, column, replaced).logsumexp(1).sum()


def dros_terms(scores: CatalogueScores, items_PM: Tensor, propensity: Tensor, beta: float) -> Tensor:
    """The same term with each of some items in the place of the target, [P, M]; the catalogue is summed up once.

    Args:
        items_PM: [P, M] in 1..N.
    """
    column, logits_PN = items_PM - 1, scores.logits_PN
    whole = (propensity * logits_PN.square() / beta).logsumexp(1, keepdim=True)
    chosen, share = logits_PN.gather(1, column), propensity[column] / beta
    others = -torch.expm1((share * chosen.square() - whole).clamp_max(0))
    return whole + torch.log(others + torch.exp(share * (chosen - 1).square() - whole))


def propensities(train_counts: Tensor) -> Tensor:
    """p_i = ((count_i + 1) / Σ_j (count_j + 1))^0.05 over items 1..N: [N] float32 from [N+1] counts."""
    counts = train_counts[1:].double() + 1
    return (counts / counts.sum()).pow(0.05).float()


class RecommendationLoss(nn.Module):
    """The configured loss on the true next item, summed over positions.

    Args:
        train_counts: [N+1] occurrences of each item in training, for the propensities of DROS.
    """

    propensity: Tensor

    def __init__(self, config: RecommendationLossConfig, train_counts: Tensor) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("propensity", propensities(train_counts), persistent=False)

    @property
    def needs_scores(self) -> bool:
        """Whether it has to be given the scores of the whole catalogue."""
        return self.config.kind == "dros"

    def robust_terms(self, scores: CatalogueScores, items_PM: Tensor) -> Tensor | None:
        """α times the robust term with each of some items in the place of the target, [P, M]; None without DROS."""
        if self.config.kind != "dros":
            return None
        return self.config.alpha * dros_terms(scores, items_PM, self.propensity, self.config.beta)

    def forward(
        self,
        hidden_PD: Tensor,
        vectors_ND: Tensor,
        targets: Tensor,
        scores: CatalogueScores | None,
        negatives: Tensor | None = None,
    ) -> Tensor:
        """
        Args:
            negatives: [P, M], where they have been drawn (`negatives`).
        """
        if self.config.kind == "softmax":
            smoothing = self.config.label_smoothing
            if scores is None and hidden_PD.device.type == "cpu":
                mass = torch.full_like(targets, 1 - smoothing, dtype=hidden_PD.dtype)[:, None]
                return catalogue_cross_entropy(
                    hidden_PD, vectors_ND[1:], targets[:, None] - 1, mass, uniform=smoothing
                )[0]
            return softmax_loss(scores or CatalogueScores.of(hidden_PD, vectors_ND), targets, smoothing)
        if negatives is None:
            negatives = self.negatives(targets, len(vectors_ND) - 1)
        positive = (hidden_PD * vectors_ND[targets]).sum(-1)
        negative_PM = torch.einsum("pd,pmd->pm", hidden_PD, vectors_ND[negatives])
        loss = bce_loss(positive, negative_PM)
        if self.config.kind == "dros":
            assert scores is not None
            loss = loss + self.config.alpha * dros_term(scores, targets, self.propensity, self.config.beta)
        return loss

    def negatives(self, targets: Tensor, num_items: int) -> Tensor:
        """[P, M] uniform over the items that are not the target."""
        shape = (len(targets), self.config.negatives)
        offsets = (
            torch.randint(1, num_items, shape, device=targets.device) if num_items > 1 else targets.new_ones(shape)
        )
        return (targets[:, None] - 1 + offsets) % num_items + 1
