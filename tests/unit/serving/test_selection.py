from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest

from recsys.data.prepared import PreparedDataset
from recsys.errors import UserError
from recsys.serving.recommender import Recommendation, Recommender, popular
from recsys.serving.selection import Selection, pick

HISTORY = ["i1", "i2", "i8"]


def genres(recommender: Recommender, item_id: str) -> list[str]:
    (values,) = recommender.catalogue.attributes.of([recommender.catalogue.index[item_id]])
    return values.get("genres", [])


def rank(recommender: Recommender, k: int = 10, **selection: object) -> Recommendation:
    (answer,) = recommender.rank([HISTORY], k, selection=Selection(**selection))  # type: ignore[arg-type]
    return answer


@pytest.fixture
def whole(recommender: Recommender) -> list[str]:
    """The ranking of all items but those of the history."""
    return recommender.recommend([HISTORY], k=60)[0]


def test_excluded_items_are_never_recommended(recommender: Recommender, whole: list[str]) -> None:
    answer = rank(recommender, 5, exclude=[whole[0], whole[2], "i1", "nothing", f" {whole[3]} "])
    assert answer.items == [whole[1], *whole[4:8]]
    assert answer.not_found == {"exclude": ["nothing"]}


def test_only_what_is_allowed_is_ranked(recommender: Recommender, whole: list[str]) -> None:
    allowed = [whole[40], whole[3], "nothing", whole[9], whole[3], HISTORY[0]]
    answer = rank(recommender, 5, only=allowed)
    assert answer.items == [whole[3], whole[9], whole[40]], "fewer than k, not padded"
    assert answer.not_found == {"only": ["nothing"]}
    assert answer.scores == pytest.approx([rank(recommender, 57).scores[place] for place in (3, 9, 40)])
    assert rank(recommender, 5, only=[]).items == rank(recommender, 5, only=["nothing"]).items == []
    assert rank(recommender, 1, only=allowed, exclude=[whole[3]]).items == [whole[9]]


def test_filters_take_any_value_of_every_attribute(recommender: Recommender, whole: list[str]) -> None:
    for wanted in (["Drama"], ["Drama", "Horror"], ["Comedy", "Drama", "Horror"]):
        expected = [item for item in whole if set(genres(recommender, item)) & set(wanted)]
        assert rank(recommender, 60, where={"genres": wanted}).items == expected
        both = [item for item in expected if int(item[1:]) % 2]
        assert rank(recommender, 60, where={"genres": wanted, "brand": ["Acme"]}).items == both
        assert rank(recommender, 3, where={"genres": wanted}, only=both[4:]).items == both[4:7]
    answer = rank(recommender, 3, where={"genres": ["Dramma"], "brand": ["Acme", "Emca"]})
    assert answer.items == [] and answer.not_found == {"where.genres": ["Dramma"], "where.brand": ["Emca"]}
    with pytest.raises(UserError, match="no attribute 'colour'; known: genres, brand"):
        rank(recommender, 3, where={"colour": ["red"]})


def capped(recommender: Recommender, ranked: Sequence[str], k: int, cap: int) -> list[str]:
    counts: Counter[str] = Counter()
    answer: list[str] = []
    for item in ranked:
        own = genres(recommender, item)
        if len(answer) < k and all(counts[genre] < cap for genre in own):
            counts.update(own)
            answer.append(item)
    return answer


@pytest.mark.parametrize(("k", "cap"), [(6, 1), (9, 3), (30, 4), (60, 60)])
def test_at_most_so_many_share_a_value(recommender: Recommender, whole: list[str], k: int, cap: int) -> None:
    assert rank(recommender, k, at_most={"genres": cap}).items == capped(recommender, whole, k, cap)
    counts = rank(recommender, 60, at_most={"genres": 2}, where={"genres": ["Drama", "Comedy"]})
    assert len(counts.items) <= 4
    with pytest.raises(UserError, match="no attribute 'colour'"):
        rank(recommender, 3, at_most={"colour": 1})


def test_more_candidates_are_looked_at_where_a_cap_leaves_too_few(
    recommender: Recommender, whole: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recsys.serving.selection.POOL", 1)
    acme = [item for item in whole if int(item[1:]) % 2]
    last = next(item for item in reversed(whole) if item not in acme)
    assert len(acme) > 20 and whole.index(last) > whole.index(acme[20])
    chosen = rank(recommender, 2, at_most={"brand": 1}, only=[*acme, last])
    assert chosen.items == [acme[0], last]


def naive_marginal_relevance(scores: np.ndarray, vectors: np.ndarray, k: int, diversity: float) -> list[int]:
    low, high = scores.min(), scores.max()
    chosen: list[int] = []
    while len(chosen) < min(k, len(scores)):
        worths = {}
        for place in range(len(scores)):
            if place not in chosen:
                cosines = [
                    vectors[place] @ vectors[other] / np.linalg.norm(vectors[place]) / np.linalg.norm(vectors[other])
                    for other in chosen
                ]
                relevance = (scores[place] - low) / (high - low)
                worths[place] = (1 - diversity) * relevance - diversity * max(cosines, default=0)
        chosen.append(max(worths, key=worths.__getitem__))
    return chosen


@pytest.mark.parametrize("diversity", [0.0, 0.3, 0.7, 1.0])
def test_variety_is_maximal_marginal_relevance(recommender: Recommender, whole: list[str], diversity: float) -> None:
    ranked = rank(recommender, 57)
    numbers = [recommender.catalogue.index[item] for item in ranked.items]
    vectors = recommender.checkpoint.model.item_vectors().detach().numpy()[numbers]
    scores = np.array(ranked.scores)
    expected = naive_marginal_relevance(scores, vectors, 8, diversity)
    answer = rank(recommender, 8, diversity=diversity)
    assert answer.items == [ranked.items[place] for place in expected]
    assert answer.scores == pytest.approx(scores[expected].tolist())
    assert answer.items[0] == whole[0]


def test_equal_items_come_last_and_caps_hold_beside_variety() -> None:
    scores, near = np.array([3.0, 2.9, 2.8, 1.0]), np.array([[1.0, 0], [1, 0], [0, 1], [-1, 0]])
    kinds = [[("brand", "a")], [("brand", "a")], [("brand", "b")], []]
    free: list[list[tuple[str, str]]] = [[]] * 4
    assert pick(scores, 4, kinds=free, at_most={}, diversity=0.5, near=near) == [0, 3, 2, 1]
    assert pick(scores, 4, kinds=kinds, at_most={"brand": 1}, diversity=0.5, near=near) == [0, 3, 2]
    assert pick(np.array([1.0, 1.0]), 2, kinds=free, at_most={}, diversity=0.5, near=near[[0, 3]]) == [0, 1]
    assert pick(np.array([]), 2, kinds=[], at_most={}) == []


def test_each_history_of_a_pass_has_its_own_selection(recommender: Recommender) -> None:
    selections = [None, Selection(exclude=["i5"]), Selection(where={"genres": ["Drama"]}), Selection(diversity=0.4)]
    histories, ks, masks = [HISTORY, ["i9"], ["i4", "i5"], HISTORY], [3, 5, 4, 6], [True, False, True, False]
    together = recommender.rank(histories, ks, mask_seen=masks, selection=selections)
    for history, k, mask, selection, answer in zip(histories, ks, masks, selections, together, strict=True):
        (alone,) = recommender.rank([history], k, mask_seen=mask, selection=selection)
        assert answer.items == alone.items and len(answer.items) == k
    with pytest.raises(UserError, match="2 values are given for 1 histories; give one, or one for each"):
        recommender.rank([HISTORY], selection=[None, None])


def test_popular_items_are_selected_alike(recommender: Recommender, dataset: PreparedDataset) -> None:
    catalogue = dataset.catalogue
    ranked = [catalogue.item_ids[i] for i in catalogue.popular()]
    for selection in (
        {"exclude": [ranked[0], "nothing"]},
        {"only": ranked[5:50:7]},
        {"where": {"genres": ["Horror", "Comedy"]}},
        {"where": {"genres": ["Horror"]}, "exclude": ranked[:9], "only": ranked[3:30], "diversity": 0.5},
    ):
        expected = [
            item
            for item in ranked
            if item not in selection.get("exclude", [])
            and item in selection.get("only", ranked)
            and ("where" not in selection or set(genres(recommender, item)) & set(selection["where"]["genres"]))  # type: ignore[call-overload]
        ]
        candidates = Selection(**selection).find(catalogue)  # type: ignore[arg-type]
        assert popular(catalogue, ["?"], 4, candidates).items == expected[:4]
        (fallback,) = recommender.rank([["?"]], 4, selection=candidates)
        assert fallback.items == expected[:4] and fallback.fallback and fallback.not_found == candidates.not_found
    capped_items = popular(catalogue, [], 9, Selection(at_most={"genres": 1}).find(catalogue)).items
    assert capped_items == capped(recommender, ranked, 9, 1)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"exclude": "i1"}, r"exclude is the text 'i1'; give a list, such as \['i1'\]"),
        ({"where": {"genres": "Drama"}}, "genres is the text 'Drama'; give a list"),
        ({"at_most": {"genres": 0}}, r"at_most\.genres must be 1 or more \(got 0\)"),
        ({"diversity": 1.5}, r"diversity must be between 0 and 1 \(got 1.5\)"),
        ({"diversity": float("nan")}, r"diversity must be between 0 and 1 \(got nan\)"),
    ],
)
def test_what_cannot_be_meant_is_one_sentence(given: dict[str, object], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        Selection(**given)  # type: ignore[arg-type]
