"""SLMRec's block-wise losses against loops over positions and cases computed by hand."""

import math

import pytest
import torch

from recsys.errors import UserError
from recsys.losses.alignment import (
    block_ends,
    check_blocks,
    common_blocks,
    cosine_alignment,
    logit_alignment,
    multi_supervision,
    norm_alignment,
)
from recsys.losses.scores import CatalogueScores

B, P, H, N = 3, 5, 4, 7


@pytest.fixture
def states() -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    torch.manual_seed(0)
    return [torch.randn(P, H) for _ in range(B)], [torch.randn(P, H) for _ in range(B)]


def test_by_hand() -> None:
    student = [torch.tensor([[1.0, 0.0]]), torch.tensor([[3.0, 4.0]])]
    teacher = [torch.tensor([[0.0, 2.0]]), torch.tensor([[6.0, 8.0]])]
    assert float(cosine_alignment(student, teacher)) == pytest.approx((1 + 0) / 2)
    assert float(cosine_alignment(student, teacher, "code")) == pytest.approx(1)
    assert float(norm_alignment(student, teacher)) == pytest.approx((5 + 25) / 2)
    assert float(norm_alignment(student, teacher, "code")) == pytest.approx(math.sqrt(5) + 5)
    even = CatalogueScores(torch.zeros(2, 4))
    assert float(multi_supervision([even, even, even], torch.tensor([1, 4]))) == pytest.approx(2 * math.log(4))
    assert float(multi_supervision([even] * 3, torch.tensor([1, 4]), "code")) == pytest.approx(6 * math.log(4))
    sure = CatalogueScores(torch.tensor([[math.log(3.0), 0.0]]))
    half = CatalogueScores(torch.zeros(1, 2))
    assert float(logit_alignment(half, sure)) == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5))


@pytest.mark.parametrize("form", ["paper", "code"])
def test_against_loops(states: tuple[list[torch.Tensor], list[torch.Tensor]], form: str) -> None:
    student, teacher = states
    cosine = norm = 0.0
    for s, t in zip(student, teacher, strict=True):
        for p in range(P):
            a, b = s[p].tolist(), t[p].tolist()
            dot = sum(x * y for x, y in zip(a, b, strict=True))
            cosine += 1 - dot / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))
            squared = sum((x - y) ** 2 for x, y in zip(a, b, strict=True))
            norm += squared if form == "paper" else math.sqrt(squared)
    share = B if form == "paper" else 1
    assert float(cosine_alignment(student, teacher, form)) == pytest.approx(cosine / share, rel=1e-5)
    assert float(norm_alignment(student, teacher, form)) == pytest.approx(norm / share, rel=1e-5)

    logits = [torch.randn(P, N) for _ in range(B - 1)]
    targets = torch.tensor([1, 7, 3, 3, 2])
    loss = -sum(
        math.log(math.exp(block[p, y - 1]) / sum(math.exp(x) for x in block[p].tolist()))
        for block in logits
        for p, y in enumerate(targets.tolist())
    )
    measured = multi_supervision([CatalogueScores(block) for block in logits], targets, form)
    assert float(measured) == pytest.approx(loss / (B - 1 if form == "paper" else 1), rel=1e-5)


def test_equal_states_cost_nothing_and_give_finite_gradients(
    states: tuple[list[torch.Tensor], list[torch.Tensor]],
) -> None:
    student = [state.requires_grad_() for state in states[0]]
    same = [state.detach().clone() for state in student]
    for form in ("paper", "code"):
        loss = cosine_alignment(student, same, form) + norm_alignment(student, same, form)
        assert float(loss.detach()) == pytest.approx(0, abs=1e-5)
        loss.backward()
    assert all(bool(torch.isfinite(state.grad).all()) for state in student)


def test_blocks() -> None:
    assert block_ends(8, 4) == [2, 4, 6, 8] and block_ends(4, 4) == [1, 2, 3, 4] and block_ends(4, 1) == [4]
    assert common_blocks(4, 8) == [1, 2, 4] and common_blocks(6, 32) == [1, 2]
    check_blocks(4, 32, 4)
    with pytest.raises(
        UserError, match="does not divide both the student's 6 and the teacher's 32 layers; possible: 1, 2"
    ):
        check_blocks(6, 32, 4)
