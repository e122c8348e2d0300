import math

import pytest
import torch

from recsys.losses.config import RecommendationLossConfig
from recsys.losses.recommendation import (
    RecommendationLoss,
    bce_loss,
    dros_term,
    dros_terms,
    propensities,
    softmax_loss,
)
from recsys.losses.scores import CatalogueScores


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_softmax_equals_naive_loop() -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(5, 7), torch.tensor([1, 7, 3, 3, 2])
    naive = 0.0
    for row, target in zip(logits.tolist(), targets.tolist(), strict=True):
        naive -= math.log(math.exp(row[target - 1]) / sum(math.exp(y) for y in row))
    assert softmax_loss(CatalogueScores(logits), targets).item() == pytest.approx(naive, rel=1e-5)
    library = torch.nn.functional.cross_entropy(logits, targets - 1, reduction="sum", label_smoothing=0.2)
    torch.testing.assert_close(softmax_loss(CatalogueScores(logits), targets, 0.2), library)


def test_bce_by_hand() -> None:
    value = bce_loss(torch.tensor([2.0, -1.0]), torch.tensor([[0.5, 0.0], [1.0, -3.0]])).item()
    by_hand = -(math.log(sigmoid(2)) + math.log(sigmoid(-1)))
    by_hand -= (
        math.log(1 - sigmoid(0.5)) + math.log(1 - sigmoid(0)) + math.log(1 - sigmoid(1)) + math.log(1 - sigmoid(-3))
    )
    assert value == pytest.approx(by_hand, rel=1e-6)


def test_dros_equals_naive_loop() -> None:
    torch.manual_seed(1)
    logits, targets, beta = torch.randn(4, 5), torch.tensor([1, 5, 2, 2]), 0.7
    counts = torch.tensor([0, 3, 0, 10, 1, 2])
    p = [((c + 1) / sum(k + 1 for k in counts[1:].tolist())) ** 0.05 for c in counts[1:].tolist()]
    assert propensities(counts).tolist() == pytest.approx(p, rel=1e-6)
    naive = 0.0
    for y, t in zip(logits.tolist(), targets.tolist(), strict=True):
        inside = sum(math.exp(p[i] * y[i] ** 2 / beta) for i in range(5))
        inside -= math.exp(p[t - 1] * y[t - 1] ** 2 / beta)
        inside += math.exp(p[t - 1] * (y[t - 1] - 1) ** 2 / beta)
        naive += math.log(inside)
    assert dros_term(CatalogueScores(logits), targets, propensities(counts), beta).item() == pytest.approx(
        naive, rel=1e-5
    )


def test_dros_is_finite_where_the_plain_formula_overflows() -> None:
    logits = torch.full((1, 4), 30.0)
    value = dros_term(CatalogueScores(logits), torch.tensor([2]), propensities(torch.ones(5)), 1.0)
    assert torch.isfinite(value) and value > 800


def test_dros_of_several_items_is_that_of_each_as_the_target() -> None:
    torch.manual_seed(1)
    logits, items, propensity = torch.randn(3, 5), torch.tensor([[1, 5], [2, 3], [4, 1]]), propensities(torch.arange(6))
    found = dros_terms(CatalogueScores(logits), items, propensity, 0.6)
    for row in range(3):
        for place in range(2):
            alone = dros_term(CatalogueScores(logits[[row]]), items[[row], place], propensity, 0.6)
            torch.testing.assert_close(found[row, place], alone)


def test_dros_is_bce_plus_alpha_times_its_term() -> None:
    hidden, vectors, targets = torch.randn(6, 4), torch.randn(9, 4), torch.tensor([1, 2, 3, 8, 8, 5])
    logits = hidden @ vectors[1:].T
    counts = torch.arange(9)
    losses = {}
    for kind in ("bce", "dros"):
        torch.manual_seed(5)  # the same negatives
        module = RecommendationLoss(RecommendationLossConfig(kind=kind, alpha=0.3), counts)
        losses[kind] = module(hidden, vectors, targets, CatalogueScores(logits))
    term = dros_term(CatalogueScores(logits), targets, propensities(counts), 1.0)
    torch.testing.assert_close(losses["dros"], losses["bce"] + 0.3 * term)


def test_negatives_are_uniform_over_all_items_but_the_target() -> None:
    torch.manual_seed(0)
    module = RecommendationLoss(RecommendationLossConfig(kind="bce", negatives=4000), torch.ones(6))
    drawn = module.negatives(torch.tensor([3, 5]), 5)
    for target, row in zip((3, 5), drawn, strict=True):
        counts = torch.bincount(row, minlength=6)
        assert counts[0] == 0 and counts[target] == 0
        others = [int(counts[i]) for i in range(1, 6) if i != target]
        assert min(others) > 800 and max(others) < 1200
