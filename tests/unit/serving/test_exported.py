import json
from pathlib import Path

import pytest
import torch

from recsys import storage
from recsys.checkpoint import load_checkpoint, save_again, save_checkpoint
from recsys.data.prepared import PreparedDataset
from recsys.errors import UserError
from recsys.model import SequentialRecommender
from recsys.serving.exported import load_exported
from recsys.serving.recommender import Recommender
from recsys.serving.selection import Selection
from recsys.settings import Settings
from recsys.stages import export
from recsys.students.config import GRU4RecConfig, SASRecConfig
from recsys.students.gru4rec import GRU4Rec
from recsys.students.sasrec import SASRec


@pytest.fixture
def settings(dataset: PreparedDataset, tmp_path: Path) -> Settings:
    settings = Settings(name="p", storage=str(tmp_path))
    torch.manual_seed(0)
    models: dict[str, SequentialRecommender] = {
        "sasrec": SASRec(SASRecConfig(width=16, blocks=1, max_positions=8), num_items=dataset.num_items),
        "gru": GRU4Rec(GRU4RecConfig(width=16), num_items=dataset.num_items),
    }
    for name, model in models.items():
        save_checkpoint(settings.layout.student(name), model, dataset)
    return settings


@pytest.mark.parametrize("name", ["sasrec", "gru"])
def test_an_export_recommends_what_its_checkpoint_does(settings: Settings, dataset: PreparedDataset, name: str) -> None:
    export.make(settings, name)
    exported = Recommender(load_exported(settings.layout.export(name), dataset.catalogue))
    checkpoint = Recommender.load(settings.layout.student(name))
    histories = [["i3"], ["i1", "i2", "i60", "?"], [f"i{n}" for n in range(1, 20)], ["?"]]
    for history in histories:  # alone, so that it is shorter than the longest
        (ours,), (theirs,) = (one.rank([history], 9) for one in (exported, checkpoint))
        assert ours.items == theirs.items
    for selection in (None, Selection(where={"genres": ["Drama"]}, exclude=["i4"]), Selection(diversity=0.5)):
        pairs = zip(*(one.rank(histories, 9, selection=selection) for one in (exported, checkpoint)), strict=True)
        for ours, theirs in pairs:
            assert (ours.items, ours.unknown, ours.fallback) == (theirs.items, theirs.unknown, theirs.fallback)
            assert ours.scores == pytest.approx(theirs.scores, abs=1e-4)
    manifest = storage.read_manifest(settings.layout.export(name))
    assert manifest is not None and exported.checkpoint.hash == manifest.content_hash
    assert exported.checkpoint.info["dataset"]["fingerprint"] == dataset.fingerprint


def test_an_export_of_a_student_with_further_items_knows_them(settings: Settings, dataset: PreparedDataset) -> None:
    loaded = load_checkpoint(settings.layout.student("sasrec"))
    grown = loaded.model.with_items(torch.ones(1, 16))
    catalogue = loaded.catalogue.extend({"new": "New"})
    save_again(settings.layout.student("sasrec.2"), type(loaded)(grown, catalogue, 8, "", loaded.info))
    export.make(settings, "sasrec.2")
    exported = load_exported(settings.layout.export("sasrec.2"), dataset.catalogue)
    assert exported.catalogue.titles[-1] == "New" and exported.model.item_vectors().shape == (62, 16)
    (answer,) = Recommender(exported).rank([["new"]], 61)
    assert not answer.fallback and "new" not in answer.items and len(answer.items) == 60


def test_what_cannot_be_served_is_one_sentence(settings: Settings, dataset: PreparedDataset) -> None:
    export.make(settings, "sasrec", model=False)
    uri = settings.layout.export("sasrec")
    with pytest.raises(UserError, match=r"has no model\.pt2; export it again without --vectors-only"):
        load_exported(uri, dataset.catalogue)
    with pytest.raises(UserError, match="exports/none does not exist"):
        load_exported(settings.layout.export("none"), dataset.catalogue)
    export.make(settings, "sasrec")
    with pytest.raises(UserError, match="is of other items than the dataset"):
        load_exported(uri, dataset.catalogue.extend({"x": "X"}))
    Path(uri, "export.json").write_text(json.dumps({}))
    with pytest.raises(UserError, match="is damaged"):
        load_exported(uri, dataset.catalogue)
