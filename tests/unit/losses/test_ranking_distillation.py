import math

import pytest
import torch

from recsys.losses.config import RankingDistillationConfig
from recsys.losses.ranking_distillation import (
    confidence_weights,
    consistency_weights,
    paper_weights,
    position_weights,
    ranking_distillation_loss,
)
from recsys.losses.scores import CatalogueScores


def test_position_weights_fall_exponentially_and_sum_to_one() -> None:
    weights = position_weights(5, beta=2.0)
    assert weights.sum().item() == pytest.approx(1)
    for left, right in zip(weights[:-1].tolist(), weights[1:].tolist(), strict=True):
        assert right / left == pytest.approx(math.exp(-1 / 2), rel=1e-5)


def test_confidence_is_one_at_distance_zero_and_none_without_a_distance() -> None:
    weights = confidence_weights(torch.tensor([0.0, 2.0, float("nan")]), temperature=2.0)
    assert weights.tolist() == pytest.approx([1.0, math.exp(-1), 0.0])


def test_consistency_marks_what_the_student_ranks_in_its_own_top_k() -> None:
    logits = torch.tensor([[5.0, 4.0, 3.0, 2.0]])
    assert consistency_weights(torch.tensor([[2, 4]]), logits).tolist() == [[1.0, 0.0]]
    assert consistency_weights(torch.tensor([[3, 2, 1]]), logits).tolist() == [[1.0, 1.0, 1.0]]


@pytest.mark.parametrize("form", ["paper", "softmax"])
def test_loss_equals_naive_loop(form: str) -> None:
    torch.manual_seed(0)
    logits = torch.randn(3, 6)
    teacher = torch.tensor([[1, 2, 3], [6, 5, 1], [4, 2, 6]])
    distance = torch.tensor([0.5, 3.0, float("nan")])
    config = RankingDistillationConfig(k=3, position=0.3, confidence=0.5, consistency=0.1, beta=1.5, form=form)
    naive = 0.0
    normaliser = sum(math.exp(-r / 1.5) for r in (1, 2, 3))
    for s in range(3):
        y = logits[s].tolist()
        own = sorted(range(1, 7), key=lambda i: -y[i - 1])[:3]
        for r, item in enumerate(teacher[s].tolist(), start=1):
            d = distance[s].item()
            weight = 0.3 * math.exp(-r / 1.5) / normaliser
            weight += 0.0 if math.isnan(d) else 0.5 * math.exp(-d / 2.0) / 3
            weight += 0.1 * (item in own) / 3
            weight /= 0.9
            if form == "paper":
                naive -= weight * math.log(1 / (1 + math.exp(-y[item - 1])))
            else:
                naive -= weight * math.log(math.exp(y[item - 1]) / sum(math.exp(v) for v in y))
    weights = paper_weights(teacher, confidence_weights(distance, 2.0), logits, config)
    value = ranking_distillation_loss(CatalogueScores(logits), teacher, weights, softmax=form == "softmax")
    assert value.item() == pytest.approx(naive, rel=1e-5)


def test_gradient_of_the_sigmoid_form_fades_as_the_student_agrees() -> None:
    """DLLM2Rec eq. 9: the pull on a candidate is w · (1 − σ(y))."""
    pulls = []
    for y in (-2.0, 0.0, 3.0):
        logits = torch.tensor([[y, 0.0]], requires_grad=True)
        ranking_distillation_loss(CatalogueScores(logits), torch.tensor([[1]]), torch.ones(1, 1)).backward()
        assert logits.grad is not None
        pulls.append(-logits.grad[0, 0].item())
    assert pulls == pytest.approx([1 - 1 / (1 + math.exp(-y)) for y in (-2.0, 0.0, 3.0)], rel=1e-5)


@pytest.mark.parametrize("form", ["paper", "softmax"])
def test_rows_without_signals_count_nothing(form: str) -> None:
    torch.manual_seed(0)
    logits, teacher = torch.randn(2, 6), torch.tensor([[1, 2, 3], [0, 0, 0]])
    softmax = form == "softmax"
    both = ranking_distillation_loss(CatalogueScores(logits), teacher, torch.ones(2, 3), softmax=softmax)
    first = ranking_distillation_loss(CatalogueScores(logits[:1]), teacher[:1], torch.ones(1, 3), softmax=softmax)
    torch.testing.assert_close(both, first)
