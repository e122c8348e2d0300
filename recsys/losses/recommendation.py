"""Losses on the true next item.

What a step costs beside the model, in memory and time; the item vectors' gradient and their optimiser's step are N × D
with each of them:

| kind | memory | time |
|---|---|---|
| softmax | a few MB on a processor, P × N scores elsewhere | P × N × D |
| sampled-softmax | P × M scores | P × M × D |
| bce, gbce | P × M × D, the vectors of each position's negatives | P × M × D |
| dros | P × N scores | P × N × D |

Legend: P positions with a target, N items, D width, M negatives, K other items.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recsys.losses.catalogue_cross_entropy import catalogue_cross_entropy
from recsys.losses.config import RecommendationLossConfig
from recsys.losses.sampled_softmax import Proposal, sampled_softmax_loss
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


def bce_loss(positive: Tensor, negative_PM: Tensor, power: float = 1.0) -> Tensor:
    """Binary cross-entropy −log σ(y_t)^β − Σ_j log(1 − σ(y_j)), summed over positions (DLLM2Rec eq. 3, where β = 1).

    Args:
        positive: [P] logits of the targets.
        negative_PM: [P, M] logits of the negatives.
        power: β (`calibrate`).
    """
    return -power * F.logsigmoid(positive).sum() - F.logsigmoid(-negative_PM).sum()


def calibrate(negatives: int, num_items: int, calibration: float) -> float:
    """β of the generalised binary cross-entropy, gBCE (Petrov and Macdonald, "gSASRec", RecSys 2023, arXiv 2308.07192).

    A model that meets few of the N − 1 negatives learns probabilities near 1 for all that is popular. With the share
    α = M / (N − 1) of negatives that are drawn, and t the calibration, β = α (t (1 − 1/α) + 1/α) = 1 − t (1 − α): at
    t = 0 it is 1, and the loss the plain one; at t = 1 it is α, and σ(y) learns the probability that it would have
    learned with all negatives.

    Returns:
        At least α, at most 1; draws are with replacement, so that more than N − 1 count as all.
    """
    share = min(negatives / max(num_items - 1, 1), 1.0)
    return 1 - calibration * (1 - share)


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
        train_counts: [N+1] occurrences of each item in training, for the propensities of DROS and what is drawn by
            popularity.
    """

    propensity: Tensor

    def __init__(self, config: RecommendationLossConfig, train_counts: Tensor) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("propensity", propensities(train_counts), persistent=False)
        self.proposal = Proposal(train_counts, config.popularity) if config.kind == "sampled-softmax" else None

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
        kind, num_items = self.config.kind, len(vectors_ND) - 1
        if kind == "softmax":
            if scores is None and hidden_PD.device.type == "cpu":
                return self.cross_entropy(hidden_PD, vectors_ND, targets)[0]
            scores = scores or CatalogueScores.of(hidden_PD, vectors_ND)
            return softmax_loss(scores, targets, self.config.label_smoothing)
        positive = (hidden_PD * vectors_ND[targets]).sum(-1)
        if self.proposal is not None:
            drawn, log_expected = self.proposal.draw(self.config.negatives)
            negative_PM = hidden_PD @ vectors_ND[drawn].T
            return sampled_softmax_loss(positive, negative_PM, log_expected, targets[:, None] == drawn)
        if negatives is None:
            negatives = self.negatives(targets, num_items)
        negative_PM = torch.einsum("pd,pmd->pm", hidden_PD, vectors_ND[negatives])
        if kind == "gbce":
            power = calibrate(self.config.negatives, num_items, self.config.calibration)
            return bce_loss(positive, negative_PM, power)
        loss = bce_loss(positive, negative_PM)
        if kind == "dros":
            assert scores is not None
            loss = loss + self.config.alpha * dros_term(scores, targets, self.propensity, self.config.beta)
        return loss

    def cross_entropy(
        self,
        hidden_PD: Tensor,
        vectors_ND: Tensor,
        targets: Tensor,
        others_PK: Tensor | None = None,
        mass_PK: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The softmax loss on a processor, which holds no scores, and with it one on other items of some probability.

        Args:
            others_PK: in 1..N, or 0 where their mass is 0; a position's mass need not sum to one.

        Returns:
            Both together, and the softmax loss alone (detached).
        """
        smoothing, own = self.config.label_smoothing, 1 - self.config.label_smoothing
        precision = hidden_PD.dtype if mass_PK is None else mass_PK.dtype
        items, mass = targets[:, None] - 1, torch.full_like(targets, own, dtype=precision)[:, None]
        if others_PK is not None and mass_PK is not None:
            items = torch.cat([items, (others_PK - 1).clamp_min(0)], dim=1)
            mass = torch.cat([mass, mass_PK], dim=1)
        loss, normaliser_P = catalogue_cross_entropy(hidden_PD, vectors_ND[1:], items, mass, uniform=smoothing)
        if mass_PK is None:
            return loss, loss.detach()
        with torch.no_grad():
            expected = own * vectors_ND[targets] + smoothing * vectors_ND[1:].mean(dim=0)
            return loss, (normaliser_P - (hidden_PD * expected).sum(dim=1)).sum()

    def negatives(self, targets: Tensor, num_items: int) -> Tensor:
        """[P, M] uniform over the items that are not the target; one a position where the batch shares the loss's."""
        shape = (len(targets), self.config.negatives if self.proposal is None else 1)
        offsets = (
            torch.randint(1, num_items, shape, device=targets.device) if num_items > 1 else targets.new_ones(shape)
        )
        return (targets[:, None] - 1 + offsets) % num_items + 1
