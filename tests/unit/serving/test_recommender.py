import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from recsys import storage
from recsys.data.prepared import PreparedDataset
from recsys.errors import UserError
from recsys.histories import Histories
from recsys.serving.assignment import Scoring
from recsys.serving.recommender import Recommender
from recsys.serving.selection import Selection


def naive_ranking(recommender: Recommender, history: list[str], *, mask_seen: bool) -> list[str]:
    """Every item scored by itself, one history without padding, sorted in Python."""
    catalogue, model = recommender.catalogue, recommender.checkpoint.model
    recent = [catalogue.index[i] for i in history if i in catalogue.index][-recommender.checkpoint.max_history :]
    with torch.no_grad():
        query = model.hidden(Histories.of(torch.tensor([recent])))[0, -1]
        vectors = model.item_vectors()
        scores = {
            catalogue.item_ids[i]: float(torch.dot(query, vectors[i]))
            for i in range(1, len(catalogue) + 1)
            if not (mask_seen and catalogue.item_ids[i] in history)
        }
    return sorted(scores, key=lambda item: -scores[item])


@pytest.mark.parametrize("mask_seen", [True, False])
@pytest.mark.parametrize("scoring", ["exact", "int8"])
def test_recommends_what_a_naive_ranking_gives(
    random_initialised: Path, dataset: PreparedDataset, scoring: Scoring, mask_seen: bool
) -> None:
    recommender = Recommender.load(random_initialised, scoring=scoring)
    generator = np.random.default_rng(1)
    histories = [[f"i{n}" for n in generator.integers(1, dataset.num_items + 1, length)] for length in (1, 3, 8, 20, 2)]
    answers = recommender.recommend(histories, k=10, mask_seen=mask_seen)
    assert answers == [naive_ranking(recommender, h, mask_seen=mask_seen)[:10] for h in histories]


def test_scores_fall_and_belong_to_their_items(recommender: Recommender) -> None:
    (answer,) = recommender.rank([["i1", "i2"]], k=5)
    assert answer.scores == sorted(answer.scores, reverse=True)
    model = recommender.checkpoint.model
    with torch.no_grad():
        query = model.hidden(Histories.of(torch.tensor([[1, 2]])))[0, -1]
        expected = [float(query @ model.item_vectors()[recommender.catalogue.index[i]]) for i in answer.items]
    assert answer.scores == pytest.approx(expected, abs=1e-5)
    assert recommender.titles(["i3"]) == ["Film number 3"]


def test_masking_leaves_out_the_whole_history_not_only_its_end(recommender: Recommender) -> None:
    history = [f"i{n}" for n in range(1, 31)]  # the model reads the last 8
    (answer,) = recommender.rank([history], k=60)
    assert not set(answer.items) & set(history)
    assert len(answer.items) == 30, "fewer than k where no more are left"
    (unmasked,) = recommender.rank([history], k=60, mask_seen=False)
    assert len(set(unmasked.items)) == 60


def test_everything_seen_leaves_nothing(recommender: Recommender) -> None:
    (answer,) = recommender.rank([[f"i{n}" for n in range(1, 61)]], k=3)
    assert answer.items == [] and answer.scores == [] and not answer.fallback


def test_unknown_items_are_ignored_and_reported(recommender: Recommender) -> None:
    (answer,) = recommender.rank([["i1", "nobody", "i2", ""]], k=5)
    assert answer.unknown == ["nobody", ""]
    assert not answer.fallback
    assert [answer.items] == recommender.recommend([["i1", "i2"]], k=5)


def test_ids_are_read_as_those_of_the_log(recommender: Recommender) -> None:
    assert recommender.rank([["i1 ", "\ti2"]]) == recommender.rank([["i1", "i2"]])


def test_all_unknown_gives_popular_items_and_says_so(recommender: Recommender, dataset: PreparedDataset) -> None:
    known, unknown = recommender.rank([["i1"], ["x", "y"]], k=4)
    assert not known.fallback and unknown.fallback
    counts = dataset.catalogue.train_counts
    by_count = sorted(range(1, dataset.num_items + 1), key=lambda i: (-counts[i], i))
    assert unknown.items == [dataset.catalogue.item_ids[i] for i in by_count[:4]]
    assert unknown.scores == [float(counts[i]) for i in by_count[:4]]


@pytest.mark.parametrize(
    "selection",
    [
        Selection(exclude=["i3", "i9"]),
        Selection(only=["i1", "i5", "i7", "i30"]),
        Selection(only=[]),
        Selection(where={"genres": ["Drama"]}, exclude=["i3"]),
        Selection(at_most={"genres": 2}),
        Selection(where={"genres": ["Comedy"]}, diversity=0.5),
    ],
)
def test_a_selection_means_the_same_to_int8(recommender: Recommender, selection: Selection) -> None:
    int8 = Recommender(recommender.checkpoint, "int8")
    histories, ks = [["i1", "i2"], ["i5"], ["x", "i7", "i8"], ["nobody"]], [10, 3, 60, 5]
    for given in (selection, [selection, None, Selection(exclude=["i4"]), selection]):
        exact, found = (one.rank(histories, ks, selection=given) for one in (recommender, int8))
        for answer, other in zip(exact, found, strict=True):
            assert replace(answer, scores=[]) == replace(other, scores=[])
            assert other.scores == pytest.approx(answer.scores, abs=1e-5)


@pytest.mark.parametrize("k", [0, -1, 61])
def test_k_out_of_range(recommender: Recommender, k: int) -> None:
    with pytest.raises(UserError, match=rf"k must be between 1 and 60, the size of the catalogue \(got {k}\)"):
        recommender.recommend([["i1"]], k=k)


def test_empty_history(recommender: Recommender) -> None:
    with pytest.raises(UserError, match="a history is empty"):
        recommender.recommend([["i1"], []])
    assert recommender.recommend([]) == []


@pytest.mark.parametrize(
    ("histories", "sentence"),
    [
        (["i4", "i11"], r"a history is the text 'i4'; give a list of histories, such as \[\['i4'\]\]"),
        ("i4", r"histories is the text 'i4'; give a list of histories"),
        ([[4, 11]], "an item id is 4, but ids are text; give '4'"),
    ],
)
def test_a_lone_history_and_numbers_are_refused(recommender: Recommender, histories: Any, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        recommender.recommend(histories)


def test_answers_do_not_depend_on_the_batch(recommender: Recommender) -> None:
    histories = [["i5"], ["i6", "i7", "i8"], ["i9"] * 12]
    alone = [recommender.recommend([history])[0] for history in histories]
    assert recommender.recommend(histories) == alone


def test_checkpoint_cut_short_is_one_clear_line(random_initialised: Path) -> None:
    weights = random_initialised / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"is damaged: model.safetensors has 1000 bytes instead of \d+") as caught:
        Recommender.load(random_initialised)
    assert "\n" not in str(caught.value)


def test_checkpoint_cut_short_before_it_was_sealed(random_initialised: Path) -> None:
    weights = random_initialised / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    storage.seal(str(random_initialised))
    with pytest.raises(UserError, match="cannot be read") as caught:
        Recommender.load(random_initialised)
    assert "\n" not in str(caught.value)


def test_weights_that_are_not_finite_are_refused(random_initialised: Path) -> None:
    weights = load_file(random_initialised / "model.safetensors")
    weights["items.weight"][3, 0] = float("nan")
    save_file(weights, random_initialised / "model.safetensors")
    storage.seal(str(random_initialised))
    with pytest.raises(UserError, match=r"has weights that are not finite \(items\.weight\)"):
        Recommender.load(random_initialised)


def test_plain_python_without_ray(random_initialised: Path) -> None:
    code = (
        "import json, sys\n"
        "from recsys.serving.recommender import Recommender\n"
        f"answer = Recommender.load({str(random_initialised)!r}).recommend([['i1', 'i2']], k=10)\n"
        "heavy = {'ray', 'mlflow', 'transformers', 'deepspeed'} & set(sys.modules)\n"
        "print(json.dumps([answer, sorted(heavy)]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    (answer,), heavy = json.loads(done.stdout)
    assert len(answer) == 10 and not {"i1", "i2"} & set(answer)
    assert heavy == []
