import math

import pytest
import torch

from recsys.losses.config import RecommendationLossConfig
from recsys.losses.recommendation import (
    RecommendationLoss,
    bce_loss,
    calibrate,
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


@pytest.mark.parametrize("calibration", [0.0, 0.75, 1.0])
def test_gbce_equals_a_plain_loop(calibration: float) -> None:
    """In the form of the paper: α, then β, then the sigmoid to the power of β."""
    torch.manual_seed(2)
    hidden, vectors, targets, count = torch.randn(5, 4), torch.randn(12, 4), torch.tensor([1, 2, 3, 11, 11]), 3
    config = RecommendationLossConfig(kind="gbce", negatives=count, calibration=calibration)
    module = RecommendationLoss(config, torch.ones(12))
    negatives = module.negatives(targets, 11)
    alpha = count / (11 - 1)
    beta = alpha * (calibration * (1 - 1 / alpha) + 1 / alpha)
    naive = 0.0
    for row, (target, drawn) in enumerate(zip(targets.tolist(), negatives.tolist(), strict=True)):
        naive -= math.log(sigmoid(float(hidden[row] @ vectors[target])) ** beta)
        naive -= sum(math.log(1 - sigmoid(float(hidden[row] @ vectors[item]))) for item in drawn)
    assert module(hidden, vectors, targets, None, negatives).item() == pytest.approx(naive, rel=1e-5)


def test_gbce_that_is_not_calibrated_is_bce_to_the_last_bit() -> None:
    hidden, vectors, targets = torch.randn(6, 4, requires_grad=True), torch.randn(9, 4), torch.randint(1, 9, (6,))
    found = []
    for kind in ("bce", "gbce"):
        torch.manual_seed(5)
        config = RecommendationLossConfig(kind=kind, negatives=3, calibration=0)
        loss = RecommendationLoss(config, torch.ones(9))(hidden, vectors, targets, None)
        found.append((loss, *torch.autograd.grad(loss, hidden)))
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_calibration_is_between_none_and_the_share_that_is_drawn() -> None:
    assert calibrate(10, 101, 0.0) == 1 and calibrate(10, 101, 1.0) == pytest.approx(0.1)
    assert calibrate(10, 101, 0.75) == pytest.approx(1 - 0.75 * 0.9)
    assert calibrate(500, 101, 1.0) == 1, "with replacement there may be more than there are"
    assert calibrate(1, 1, 1.0) == 1


def test_full_calibration_learns_the_probabilities_that_all_negatives_teach() -> None:
    """What the gSASRec paper proves. One history that 3 of 11 items follow: at the minimum of the expected loss σ(y) is
    the item's frequency with all negatives, and with a sample of them at t = 1 alone."""
    frequency = torch.tensor([0.5, 0.3, 0.2, *[0.0] * 8], dtype=torch.float64)
    seen = frequency > 0
    learned = {}
    for count, calibration in ((10, 0.0), (2, 0.0), (2, 1.0)):
        logits = torch.zeros(11, dtype=torch.float64, requires_grad=True)
        optimiser = torch.optim.LBFGS([logits], max_iter=200, line_search_fn="strong_wolfe")
        power, chance = calibrate(count, 11, calibration), count / 10

        def step(power: float = power, chance: float = chance, logits: torch.Tensor = logits) -> torch.Tensor:
            optimiser.zero_grad()  # noqa: B023
            says = torch.nn.functional.logsigmoid
            loss = -(frequency * power * says(logits) + (1 - frequency) * chance * says(-logits))[seen].sum()
            loss.backward()
            return loss

        optimiser.step(step)
        learned[count, calibration] = logits.detach().sigmoid()[seen]
    torch.testing.assert_close(learned[2, 1.0], learned[10, 0.0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(learned[10, 0.0], frequency[seen], rtol=1e-4, atol=1e-5)
    assert (learned[2, 0.0] > 1.2 * frequency[seen]).all(), "too sure"


def test_more_on_other_items_leaves_the_softmax_loss_as_it_is() -> None:
    torch.manual_seed(0)
    module = RecommendationLoss(RecommendationLossConfig(label_smoothing=0.2), torch.ones(10))
    hidden, vectors, targets = torch.randn(7, 4), torch.randn(10, 4), torch.randint(1, 10, (7,))
    others, mass = torch.randint(1, 10, (7, 3)), torch.rand(7, 3)
    others[0], mass[0] = 0, 0
    alone, same = module.cross_entropy(hidden, vectors, targets)
    both, own = module.cross_entropy(hidden, vectors, targets, others, mass)
    log_probability = torch.log_softmax(hidden @ vectors[1:].T, dim=1)
    further = -(mass * log_probability.gather(1, (others - 1).clamp_min(0))).sum()
    torch.testing.assert_close(same, alone)
    torch.testing.assert_close(own, alone)
    torch.testing.assert_close(both, alone + further)
