import json
from pathlib import Path

import pytest
import torch

from recsys import storage
from recsys.data.prepared import PreparedDataset
from recsys.decoders.config import ItemEncoderConfig
from recsys.decoders.item_encoder import encode
from recsys.errors import UserError
from recsys.serving.new_items import read_further_items
from recsys.serving.recommender import Recommender
from recsys.serving.selection import Selection
from recsys.students.titles import TitleProjector, TitleSide

NEW = {" new1 ": "Film number 7", "new2": " A sad film about a dog "}


@pytest.fixture
def distilled(recommender: Recommender) -> Recommender:
    """A student of random weights that reads titles by MiniLM."""
    torch.manual_seed(1)
    side = TitleSide(ItemEncoderConfig(), torch.zeros(384), torch.ones(384), {})
    weights = {"weight": torch.randn(16, 384), "bias": torch.zeros(16)}
    model = recommender.checkpoint.model
    model.title_projector = TitleProjector.of(side, weights, torch.zeros(384), torch.ones(384), 1.0)
    return recommender


def test_new_items_are_recommended_and_read(distilled: Recommender, dataset: PreparedDataset, tmp_path: Path) -> None:
    before = distilled.rank([["i1", "i2", "new1"]], 60)
    grown = distilled.add_items(NEW)
    assert distilled.rank([["i1", "i2", "new1"]], 60) == before, "the one they are added to stays as it is"
    assert grown.checkpoint.hash.startswith("unsaved-") and len(grown.catalogue) == dataset.num_items + 2

    vectors = grown.checkpoint.model.item_vectors().detach()
    text = encode(["", *(title.strip() for title in NEW.values())], ItemEncoderConfig()).vectors[1:]
    expected = text @ distilled.checkpoint.model.title_projector.tensors["projector.weight"].T
    torch.testing.assert_close(vectors[61:], expected)
    assert torch.equal(vectors[:61], distilled.checkpoint.model.item_vectors())

    (answer,) = grown.rank([["i1", "i2"]], 62, mask_seen=False)
    (old,) = distilled.rank([["i1", "i2"]], 60, mask_seen=False)
    assert [item for item in answer.items if item not in ("new1", "new2")] == old.items
    assert {"new1", "new2"} < set(answer.items)
    (read,) = grown.rank([["i1", "i2", "new1"]], 62)
    assert not read.unknown and "new1" not in read.items and read.items != answer.items
    assert grown.titles(["new2"]) == ["A sad film about a dog"]
    (few,) = grown.rank([["i1"]], 5, selection=Selection(only=["new1", "i2"]))
    assert set(few.items) == {"new1", "i2"}
    assert set(grown.recommend([["unheard of"]], 60)[0]) == set(dataset.catalogue.item_ids[1:]), "not popular yet"


def test_int8_stays_int8_and_knows_the_new_items(distilled: Recommender, tmp_path: Path) -> None:
    grown = distilled.add_items(NEW)
    int8 = Recommender(distilled.checkpoint, "int8").add_items(NEW)
    for one in (int8, int8.save(tmp_path / "grown")):
        assert one.scoring == "int8"
        assert one.recommend([["i1", "new1"]], 62) == grown.recommend([["i1", "new1"]], 62)
    assert grown.scoring == "exact"


def test_what_comes_of_it_is_a_checkpoint_that_says_what_of(distilled: Recommender, tmp_path: Path) -> None:
    grown = distilled.add_items({"new1": "One"})
    saved = grown.save(tmp_path / "two")
    assert saved.checkpoint.hash == storage.read_manifest(str(tmp_path / "two")).content_hash
    assert (
        saved.rank([["i1", "new1"]], 61, mask_seen=False)[0].scores
        == grown.rank([["i1", "new1"]], 61, mask_seen=False)[0].scores
    )
    third = saved.add_items({"new2": "Two"}).save(tmp_path / "three")
    told = json.loads((tmp_path / "three" / "config.json").read_text())
    assert told["num_items"] == 62 and third.catalogue.titles[-2:] == ["One", "Two"]
    assert [(added["checkpoint"], added["items"]) for added in told["added_items"]] == [
        (distilled.checkpoint.hash, 1), (saved.checkpoint.hash, 1)
    ]  # fmt: skip
    assert third.checkpoint.fingerprint == distilled.checkpoint.fingerprint


def test_what_a_checkpoint_knows_besides_a_catalogue_is_read(
    distilled: Recommender, random_initialised: Path, dataset: PreparedDataset, tmp_path: Path
) -> None:
    assert read_further_items(str(random_initialised), dataset.catalogue) == {}
    grown = distilled.add_items(NEW).save(tmp_path / "2").add_items({"new3": "Third"}).save(tmp_path / "3")
    expected = {"new1": "Film number 7", "new2": "A sad film about a dog", "new3": "Third"}
    assert read_further_items(str(tmp_path / "3"), dataset.catalogue) == expected
    assert read_further_items(str(tmp_path / "3"), grown.catalogue) == {}


@pytest.mark.parametrize(
    ("items", "sentence"),
    [
        ({}, "no items to add"),
        ({"i7 ": "Seven"}, "'i7' is in the catalogue already"),
        ({"x": "One", "x ": "Two"}, "'x' is there twice"),
        ({"x": " "}, "'x' has no title"),
        ({" ": "One"}, "the item with the title 'One' has no id"),
    ],
)
def test_what_is_no_new_item_is_refused(distilled: Recommender, items: dict[str, str], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        distilled.add_items(items)


def test_a_student_without_a_projector_says_so(recommender: Recommender) -> None:
    with pytest.raises(UserError, match=r"this sasrec takes in no new items.*distillation\.embedding"):
        recommender.add_items(NEW)
