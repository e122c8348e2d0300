import pytest
import torch
from torch import Tensor

from recsys.serving import top_k as module
from recsys.serving.top_k import BLOCK, find_at_least, top_k


def naive_top_k(scores: Tensor, k: int) -> list[list[int]]:
    """Python's own sort, which leaves equal ones in their order."""
    return [sorted(range(len(row)), key=lambda place: -row[place])[:k] for row in scores.tolist()]


@pytest.fixture(params=["blocks", "alone"], autouse=True)
def by_blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "blocks":
        monkeypatch.setattr(module, "FEW", 0)


def draw(kind: str, rows: int, size: int) -> Tensor:
    generator = torch.Generator().manual_seed(size)
    if kind == "ties":
        return torch.randint(-3, 3, (rows, size), generator=generator).float()
    if kind == "integers":
        return torch.randint(-(2**31), 2**31 - 1, (rows, size), generator=generator).int()
    scores = torch.randn(rows, size, generator=generator)
    if kind == "left out":
        scores[torch.rand(rows, size, generator=generator) < 0.999] = -torch.inf
    return scores


@pytest.mark.parametrize("kind", ["random", "ties", "integers", "left out"])
@pytest.mark.parametrize(
    ("rows", "size", "k"),
    [
        (3, 1, 1),
        (1, 60, 60),
        (2, BLOCK * 20, 10),
        (2, BLOCK * 21 + 5, 10),
        (1, 3 * BLOCK**2 + 1, 1),
        (3, 30_000, 7),
        (1, 2**16 + 9, 5),
    ],
)
def test_the_best_are_those_of_a_naive_sort(kind: str, rows: int, size: int, k: int) -> None:
    scores = draw(kind, rows, size)
    values, places = top_k(scores, k)
    assert places.tolist() == naive_top_k(scores, k)
    assert values.dtype == scores.dtype and torch.equal(values, scores.gather(1, places))


def test_the_best_of_one_block_and_of_what_is_left_over_at_the_end() -> None:
    scores = torch.zeros(1, 50 * BLOCK + 3)
    best = [*range(7 * BLOCK + 20, 7 * BLOCK + 12, -1), 50 * BLOCK + 2, 50 * BLOCK]
    scores[0, best] = torch.arange(len(best), 0, -1.0)
    assert top_k(scores, len(best))[1].tolist() == [best]


def test_zero_has_no_sign() -> None:
    assert top_k(torch.tensor([[-0.0, 0.0, -0.0, -1.0]]), 3)[1].tolist() == [[0, 1, 2]]


@pytest.mark.parametrize("size", [1, BLOCK, 5 * BLOCK, 5 * BLOCK + 7])
def test_what_is_not_below_a_number(size: int) -> None:
    scores = draw("ties", 1, size)[0]
    for least in (-3, 1, 2, 9):
        assert find_at_least(scores, least).tolist() == [i for i, score in enumerate(scores.tolist()) if score >= least]
