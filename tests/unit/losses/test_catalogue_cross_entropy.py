import pytest
import torch
from torch import Tensor

from recsys.losses import catalogue_cross_entropy as module
from recsys.losses.catalogue_cross_entropy import catalogue_cross_entropy
from recsys.losses.config import RecommendationLossConfig
from recsys.losses.recommendation import RecommendationLoss, softmax_loss
from recsys.losses.scores import CatalogueScores

WIDTH, ITEMS = 6, 23


def naive(hidden: Tensor, vectors: Tensor, items: Tensor, mass: Tensor, uniform: float) -> Tensor:
    loss = torch.zeros((), dtype=hidden.dtype)
    for row in range(len(hidden)):
        log_probability = torch.log_softmax(vectors @ hidden[row], dim=0)
        for item, share in zip(items[row].tolist(), mass[row].tolist(), strict=True):
            loss = loss - share * log_probability[item]
        loss = loss - uniform * log_probability.mean()
    return loss


@pytest.mark.parametrize("positions", [1, 4, 5, 11])  # less than a piece, one, one and a bit, many
@pytest.mark.parametrize("shares", [1, 3])
@pytest.mark.parametrize("uniform", [0.0, 0.3])
def test_loss_and_gradients_equal_a_naive_loop(
    positions: int, shares: int, uniform: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(module.AT_A_TIME, torch.float64, 4)
    torch.manual_seed(positions)
    hidden = (3 * torch.randn(positions, WIDTH, dtype=torch.float64)).requires_grad_()
    vectors = torch.randn(ITEMS, WIDTH, dtype=torch.float64, requires_grad=True)
    items = torch.randint(0, ITEMS, (positions, shares))
    items[:, 0] = items[:, -1]  # named twice
    mass = torch.rand(positions, shares, dtype=torch.float64)
    expected = naive(hidden, vectors, items, mass, uniform)
    wanted = torch.autograd.grad(2.5 * expected, (hidden, vectors))
    loss, normaliser = catalogue_cross_entropy(hidden, vectors, items, mass, uniform=uniform)
    torch.testing.assert_close(normaliser, (hidden @ vectors.T).logsumexp(1).detach())
    assert not normaliser.requires_grad
    found = torch.autograd.grad(2.5 * loss, (hidden, vectors))
    torch.testing.assert_close(loss, expected)
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_softmax_is_the_same_with_and_without_the_scores(smoothing: float) -> None:
    torch.manual_seed(0)
    loss = RecommendationLoss(RecommendationLossConfig(label_smoothing=smoothing), torch.ones(ITEMS + 1))
    hidden, vectors = torch.randn(40, WIDTH, requires_grad=True), torch.randn(ITEMS + 1, WIDTH, requires_grad=True)
    targets = torch.randint(1, ITEMS + 1, (40,))
    given = softmax_loss(CatalogueScores(hidden @ vectors[1:].T), targets, smoothing)
    pieces = loss(hidden, vectors, targets, None)
    torch.testing.assert_close(pieces, given)
    for ours, theirs in zip(
        torch.autograd.grad(pieces, (hidden, vectors)), torch.autograd.grad(given, (hidden, vectors)), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


def test_under_autocast_products_are_of_bfloat16() -> None:
    torch.manual_seed(0)
    hidden, vectors = torch.randn(300, WIDTH, requires_grad=True), torch.randn(ITEMS, WIDTH, requires_grad=True)
    items, mass = torch.randint(0, ITEMS, (300, 2)), torch.rand(300, 2)
    exact, _ = catalogue_cross_entropy(hidden, vectors, items, mass, uniform=0.1)
    with torch.autocast("cpu", torch.bfloat16):
        rounded, _ = catalogue_cross_entropy(hidden, vectors, items, mass, uniform=0.1)
    assert rounded.dtype == torch.float32 and rounded.item() != exact.item()
    assert rounded.item() == pytest.approx(exact.item(), rel=1e-3)
    for ours, theirs in zip(
        torch.autograd.grad(rounded, (hidden, vectors)), torch.autograd.grad(exact, (hidden, vectors)), strict=True
    ):
        assert (ours - theirs).norm() < 0.01 * theirs.norm()


def test_a_position_of_no_mass_counts_nothing() -> None:
    hidden, vectors = torch.randn(3, WIDTH, requires_grad=True), torch.randn(ITEMS, WIDTH, requires_grad=True)
    loss, _ = catalogue_cross_entropy(hidden, vectors, torch.zeros(3, 1, dtype=torch.int64), torch.zeros(3, 1))
    gradients = torch.autograd.grad(loss, (hidden, vectors))
    assert loss.item() == 0 and all(gradient.abs().max() < 1e-30 for gradient in gradients)


def test_large_scores_overflow_nothing() -> None:
    hidden, vectors = torch.full((2, 1), 400.0, requires_grad=True), torch.tensor([[1.0], [-1.0], [0.5]])
    loss, _ = catalogue_cross_entropy(hidden, vectors, torch.tensor([[0], [1]]), torch.ones(2, 1))
    assert loss.item() == pytest.approx(800)
    (gradient,) = torch.autograd.grad(loss, hidden)
    assert gradient.tolist() == [[0.0], [2.0]]


def test_the_scores_are_not_kept_for_the_backward_pass() -> None:
    kept = 0

    def keep(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += tensor.numel()
        return tensor

    hidden, vectors = torch.randn(400, 8, requires_grad=True), torch.randn(301, 8, requires_grad=True)
    loss = RecommendationLoss(RecommendationLossConfig(), torch.ones(301))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss(hidden, vectors, torch.randint(1, 301, (400,)), None).backward()
    assert 0 < kept < 400 * 300 / 10
