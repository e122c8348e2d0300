from pathlib import Path

import pytest
import torch
from torch import Tensor

from recsys.data.prepared import PreparedDataset
from recsys.errors import UserError
from recsys.histories import Histories
from recsys.rules.config import RulesConfig
from recsys.rules.model import SequentialRules
from recsys.serving import scoring
from recsys.serving.scoring import FullScores, Int8Vectors, Scores, build_scorer
from recsys.students.config import SASRecConfig
from recsys.students.sasrec import SASRec


def draw_vectors(kind: str, items: int = 5000, width: int = 24) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    vectors = torch.randn(items + 1, width, generator=generator)
    if kind == "clusters":
        centres = torch.randn(20, width, generator=generator)
        vectors = centres[torch.randint(0, 20, (items + 1,), generator=generator)] + 0.2 * vectors
    if kind == "long":
        vectors[7] *= 50
    if kind == "uneven dimensions":
        vectors *= torch.logspace(-3, 2, width)
        vectors[:, 4] = 0
    vectors[0] = 0
    return vectors


def naive_best(scores: list[float], k: int, left_out: set[int], among: list[int] | None = None) -> list[int]:
    may = [item for item in (range(1, len(scores)) if among is None else among) if item not in left_out]
    return sorted(may, key=lambda item: -scores[item])[:k]


@pytest.mark.parametrize("kind", ["gaussian", "clusters", "long", "uneven dimensions"])
@pytest.mark.parametrize("k", [1, 10, 200])
def test_int8_finds_what_full_precision_ranks_first(kind: str, k: int) -> None:
    vectors = draw_vectors(kind)
    queries = torch.cat([vectors[[3, 7]], torch.randn(2, vectors.shape[1], generator=torch.Generator().manual_seed(2))])
    exact = queries.double() @ vectors.double().T
    found = Int8Vectors(vectors).score(queries)
    left_out = {1, 7, 4999}
    for row, (items, scores) in enumerate(found.best_of_all(k)):
        assert items.tolist() == naive_best(exact[row].tolist(), k, set())
        torch.testing.assert_close(scores.double(), exact[row, items], rtol=1e-5, atol=1e-5)
    for row in range(len(queries)):
        found.leave_out(row, torch.tensor(sorted(left_out)))
        among = torch.arange(1, 5001, 3)
        expected = exact[row].tolist()
        assert found.best(row, k)[0].tolist() == naive_best(expected, k, left_out)
        assert found.best(row, k, among)[0].tolist() == naive_best(expected, k, left_out, among.tolist())


def test_hardly_more_than_the_best_is_scored_in_full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    counts, find = [], scoring.find_at_least

    def count(scores: Tensor, least: float) -> Tensor:
        found = find(scores, least)
        counts.append(len(found))
        return found

    monkeypatch.setattr(scoring, "find_at_least", count)
    vectors = draw_vectors("gaussian", items=20_000)
    Int8Vectors(vectors).score(vectors[1:21]).best_of_all(10)
    assert min(counts) >= 10 and max(counts) < 60


def test_what_rounding_of_items_puts_first_wrongly_is_put_right() -> None:
    """All of the first item is rounded down, half of the second one up, and the third sets the step to 1."""
    vectors = torch.stack(
        [torch.zeros(64), torch.full((64,), 50.49), torch.full((64,), 50.51), torch.full((64,), -127)]
    )
    vectors[2, 32:] = 49.6
    found = Int8Vectors(vectors).score(torch.ones(1, 64))
    assert found._rough[0, 2] > found._rough[0, 1] and vectors[1].sum() > vectors[2].sum()
    assert found.best(0, 1)[0].tolist() == [1]


def test_what_rounding_of_the_query_puts_first_wrongly_is_put_right() -> None:
    """The query is rounded against the first item and for the second one; the third sets the query's step to 1."""
    sign = torch.tensor([1.0, -1.0]).repeat(32)
    vectors = torch.zeros(4, 65)
    vectors[1, :64] = 127 * sign
    vectors[2, :64] = torch.tensor([-123.0, 127.0]).repeat(32)
    vectors[3, 64] = -127
    query = torch.cat([50 + 0.49 * sign, torch.tensor([127.0])])
    found = Int8Vectors(vectors).score(query[None])
    assert found._rough[0, 2] > found._rough[0, 1] and query @ vectors[1] > query @ vectors[2]
    assert found.best(0, 1)[0].tolist() == [1]


@pytest.mark.parametrize("k", [3, 50, 300])
def test_equal_scores_stand_in_the_order_of_the_catalogue_either_way(k: int) -> None:
    vectors = torch.randint(-2, 3, (301, 4), generator=torch.Generator().manual_seed(0)).float()
    query = torch.tensor([[1.0, -1.0, 2.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    exact = query @ vectors.T
    for scores in (FullScores(exact.clone()), Int8Vectors(vectors).score(query)):
        assert [items.tolist() for items, _ in scores.best_of_all(k)] == [
            naive_best(exact[row].tolist(), k, set()) for row in (0, 1)
        ]


@pytest.mark.parametrize("way", ["exact", "int8"])
def test_fewer_where_no_more_may_be_named(way: str) -> None:
    vectors = draw_vectors("gaussian", items=30)
    query = vectors[2:3]
    scores: Scores = FullScores(query @ vectors.T) if way == "exact" else Int8Vectors(vectors).score(query)
    scores.leave_out(0, torch.arange(4, 31))
    assert sorted(scores.best_of_all(10)[0][0].tolist()) == [1, 2, 3]
    assert scores.best(0, 10, torch.tensor([3, 9]))[0].tolist() == [3]
    for among in (torch.tensor([9]), torch.tensor([], dtype=torch.int64)):
        items, values = scores.best(0, 10, among)
        assert items.tolist() == values.tolist() == []


def test_products_that_saturate_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def saturate(query: Tensor, vectors: Tensor) -> Tensor:
        return (query.int() @ vectors.int()).clamp(-(2**15), 2**15 - 1).int()

    monkeypatch.setattr(torch, "_int_mm", saturate)
    with pytest.raises(UserError, match=r"this processor's int8 products are not exact; set serving\.scoring=exact"):
        Int8Vectors(draw_vectors("gaussian"))


def test_a_student_is_scored_either_way(dataset: PreparedDataset) -> None:
    torch.manual_seed(0)
    model = SASRec(SASRecConfig(width=16, blocks=1), num_items=dataset.num_items).eval()
    histories = Histories.of(torch.tensor([[3, 4, 5], [6, 0, 0]]))
    with torch.inference_mode():
        vectors = model.item_vectors()
        exact, rough = (build_scorer(model, vectors, way)(histories).best_of_all(20) for way in ("exact", "int8"))
    for (items, scores), (found, values) in zip(exact, rough, strict=True):
        assert torch.equal(items, found)
        torch.testing.assert_close(scores, values)


def test_models_without_vectors_are_refused(dataset: PreparedDataset, tmp_path: Path) -> None:
    rules = SequentialRules(RulesConfig(), num_items=dataset.num_items)
    with pytest.raises(UserError, match=f"scoring=int8 needs .* those of a {rules.kind} are not; set scoring=exact"):
        build_scorer(rules, rules.item_vectors(), "int8")
    model = SASRec(SASRecConfig(width=16, blocks=1), num_items=dataset.num_items)
    with pytest.raises(UserError, match="scoring=int8 is for the CPU; on a GPU set scoring=exact"):
        build_scorer(model, torch.empty(61, 16, device="meta"), "int8")
