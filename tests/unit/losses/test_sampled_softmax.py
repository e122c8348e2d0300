import math

import pytest
import torch
from torch import Tensor

from recsys.losses import sampled_softmax
from recsys.losses.config import RecommendationLossConfig
from recsys.losses.recommendation import RecommendationLoss, softmax_loss
from recsys.losses.sampled_softmax import Proposal, sampled_softmax_loss
from recsys.losses.scores import CatalogueScores

COUNTS = torch.tensor([0, 40, 0, 3, 3, 10, 1, 0, 25, 2, 7, 5])
ITEMS = len(COUNTS) - 1


def shares(popularity: float) -> list[float]:
    weights = [(count + 1) ** popularity for count in COUNTS[1:].tolist()]
    return [weight / sum(weights) for weight in weights]


@pytest.mark.parametrize("popularity", [0.0, 0.75, 1.0])
def test_the_loss_equals_a_plain_loop(popularity: float) -> None:
    torch.manual_seed(0)
    hidden, vectors, targets = torch.randn(6, 4), torch.randn(ITEMS + 1, 4), torch.tensor([1, 1, 8, 8, 2, 11])
    config = RecommendationLossConfig(kind="sampled-softmax", negatives=9, popularity=popularity)
    module = RecommendationLoss(config, COUNTS)
    assert module.proposal is not None
    torch.manual_seed(4)
    drawn = module.proposal.draw(9)[0].tolist()
    assert set(drawn) & set(targets.tolist()), "some position draws its own target"
    q, naive = shares(popularity), 0.0
    for row, target in enumerate(targets.tolist()):
        own = float(hidden[row] @ vectors[target])
        normaliser = math.exp(own)
        for item in drawn:
            if item != target:
                normaliser += math.exp(float(hidden[row] @ vectors[item])) / (9 * q[item - 1])
        naive += math.log(normaliser) - own
    torch.manual_seed(4)
    assert module(hidden, vectors, targets, None).item() == pytest.approx(naive, rel=1e-5)


@pytest.mark.parametrize("popularity", [0.0, 1.0])
def test_with_many_draws_loss_and_gradients_are_those_of_the_softmax(popularity: float) -> None:
    torch.manual_seed(1)
    hidden = torch.randn(8, 4, requires_grad=True)
    vectors = torch.randn(ITEMS + 1, 4, requires_grad=True)
    targets = torch.randint(1, ITEMS + 1, (8,))
    exact = softmax_loss(CatalogueScores(hidden @ vectors[1:].T), targets)
    wanted = torch.autograd.grad(exact, (hidden, vectors))
    distances = []
    for count in (50, 200_000):
        config = RecommendationLossConfig(kind="sampled-softmax", negatives=count, popularity=popularity)
        loss = RecommendationLoss(config, COUNTS)(hidden, vectors, targets, None)
        found = torch.autograd.grad(loss, (hidden, vectors))
        distances.append([float((a - b).norm() / b.norm()) for a, b in zip(found, wanted, strict=True)])
    assert loss.item() == pytest.approx(exact.item(), rel=0.01)
    assert max(distances[1]) < 0.02 and min(distances[0]) > 2 * max(distances[1])


@pytest.mark.parametrize("popularity", [0.0, 0.75])
def test_items_are_drawn_as_often_as_is_said(popularity: float) -> None:
    torch.manual_seed(0)
    items, log_expected = Proposal(COUNTS, popularity).draw(100_000)
    found = torch.bincount(items, minlength=ITEMS + 1)
    assert found[0] == 0
    for item, share in enumerate(shares(popularity), start=1):
        said = log_expected[items == item]
        assert said.exp().tolist() == pytest.approx([100_000 * share] * len(said), rel=1e-5)
        assert abs(int(found[item]) - 100_000 * share) < 5 * math.sqrt(100_000 * share), "within five deviations"


def test_every_item_has_a_ticket_and_the_one_that_holds_it_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampled_softmax, "_TICKETS", 20)  # too few for all shares: each draw is next to an item's end
    torch.manual_seed(0)
    proposal = Proposal(COUNTS, 1.0)
    held = proposal.end.diff().tolist()
    assert min(held) == 1 and held[0] == 8
    items, log_expected = proposal.draw(20_000)
    found = torch.bincount(items, minlength=ITEMS + 1).tolist()
    assert found[0] == 0
    for item, tickets in enumerate(held, start=1):
        assert found[item] == pytest.approx(20_000 * tickets / sum(held), rel=0.15)
        assert log_expected[items == item][0].exp() == pytest.approx(20_000 * tickets / sum(held), rel=1e-5)


def test_a_target_does_not_count_against_itself() -> None:
    positive, negatives = torch.tensor([0.3, -2.0]), torch.tensor([[0.3, 1.0], [-2.0, -2.0]])
    hits = torch.tensor([[True, False], [True, True]])
    loss = sampled_softmax_loss(positive, negatives, torch.zeros(2), hits)
    assert loss.item() == pytest.approx(math.log(math.exp(0.3) + math.exp(1.0)) - 0.3)


def test_the_rarest_of_a_million_items_can_be_drawn() -> None:
    counts = torch.zeros(1_000_001)
    counts[1] = 10**9
    proposal = Proposal(counts, 1.0)
    tickets = proposal.end.diff()
    assert len(tickets) == 10**6 and int(tickets.min()) >= 1
    assert float(tickets[1]) / proposal.total == pytest.approx(1 / (10**9 + 10**6), rel=0.01)


def test_memory_grows_with_what_is_drawn_and_not_with_the_catalogue() -> None:
    """Of what is kept for the backward pass, the item vectors themselves left out."""

    def kept(items: int) -> int:
        hidden, vectors = torch.randn(100, 8, requires_grad=True), torch.randn(items + 1, 8, requires_grad=True)
        module = RecommendationLoss(
            RecommendationLossConfig(kind="sampled-softmax", negatives=30), torch.ones(items + 1)
        )
        seen: dict[int, int] = {}

        def keep(tensor: Tensor) -> Tensor:
            seen[tensor.data_ptr()] = tensor.numel() * (tensor.data_ptr() != vectors.data_ptr())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            module(hidden, vectors, torch.randint(1, items + 1, (100,)), None).backward()
        return sum(seen.values())

    assert kept(5_000) == kept(50) > 100 * 30


def test_under_bfloat16_nothing_is_rounded_but_the_scores() -> None:
    """DeepSpeed turns a module's numbers into bfloat16, buffers too."""
    torch.manual_seed(0)
    module = RecommendationLoss(RecommendationLossConfig(kind="sampled-softmax", negatives=50, popularity=1), COUNTS)
    torch.manual_seed(3)
    before = module.proposal.draw(50)
    torch.manual_seed(3)
    after = module.bfloat16().proposal.draw(50)
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


def test_what_code_distillation_shares_with_the_loss_is_one_negative_a_position() -> None:
    module = RecommendationLoss(RecommendationLossConfig(kind="sampled-softmax", negatives=50), COUNTS)
    targets = torch.randint(1, ITEMS + 1, (30,))
    drawn = module.negatives(targets, ITEMS)
    assert drawn.shape == (30, 1) and (drawn != targets[:, None]).all()
