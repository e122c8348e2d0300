"""From the log to a recommended new item: teacher, signals, student and the next version of it, in this process."""

import json
from pathlib import Path

import pytest
from safetensors.torch import save_file

from recsys import storage
from recsys.checkpoint import load_checkpoint
from recsys.config import load_config
from recsys.data.prepared import PreparedDataset
from recsys.errors import UserError
from recsys.serving.recommender import Recommender
from recsys.settings import Layout, Settings
from recsys.stages import new_items, prepare, rules, signals, student, teacher
from recsys.stages.executor import InProcess
from recsys.stages.title_side import read_title_side

STUDENTS = {
    "hllm": "distillation: {ranking: null, embedding: {hidden: 4, mix: 0.5}}",
    "texts": "distillation: {ranking: null, embedding: {source: text_embeddings}}",
    "rules": "distillation: {signals: rules, ranking: null, embedding: {source: text_embeddings}}",
    "spectra": "distillation: {signals: rules, ranking: null}",
    "alone": "loss: {kind: softmax}",
}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, fixture_data: Path) -> Settings:
    """A project up to its teachers: one that reads titles by MiniLM, and the rules."""
    options = [
        f"storage={tmp_path_factory.mktemp('p')}", "name=p", "tracking.uri=none", f"data.path={fixture_data}",
        "data.max_history=10", "teacher.model={width: 16, layers: 1, heads: 2, id_offset: false}",
        "teacher.training.epochs=1", "signals={k: 5, actors: 1, dtype: fp32}", "rules.tuning=null",
    ]  # fmt: skip
    small = "model: {kind: sasrec, width: 16, blocks: 1, heads: 1}, training: {epochs: 1}"
    options += [f"students.{name}={{{small}, {own}}}" for name, own in STUDENTS.items()]
    settings = load_config(Settings, None, options)
    prepare.make(settings, InProcess())
    rules.make(settings, InProcess())
    teacher.make(settings, InProcess())
    signals.make(settings, InProcess())
    return settings


@pytest.fixture
def listed(tmp_path: Path) -> str:
    (tmp_path / "new.csv").write_text('title,id\n"Star, Wars",n1\nA dog,n2\n')
    return str(tmp_path / "new.csv")


@pytest.mark.parametrize("name", ["hllm", "texts", "rules"])
def test_a_title_of_the_catalogue_gets_its_vector_less_the_offset(settings: Settings, name: str) -> None:
    student.make(settings, name, InProcess())
    recommender = Recommender.load(settings.layout.student(name))
    model, catalogue = recommender.checkpoint.model, recommender.catalogue
    vectors = model.title_projector.read(catalogue.titles[1:])
    # After one epoch the offsets are small.
    close = (vectors - model.item_vectors().detach()[1:]).norm(dim=1) / vectors.norm(dim=1)
    assert close.median() < 0.5


@pytest.mark.parametrize(
    ("name", "reason"),
    [("spectra", "item_embeddings of a teacher of kind sequential-rules"), ("alone", "it keeps nothing")],
)
def test_students_of_other_things_than_titles_take_in_none(
    settings: Settings, name: str, reason: str, listed: str
) -> None:
    student.make(settings, name, InProcess())
    with pytest.raises(UserError, match=f"takes in no new items: .*{reason}"):
        new_items.make(settings, name, listed)
    assert not storage.exists(settings.layout.student(f"{name}.2"))


def test_versions_are_counted_and_made_once(
    settings: Settings, listed: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    student.make(settings, "hllm", InProcess())
    assert new_items.make(settings, "hllm", listed) == "hllm.2"
    said = capsys.readouterr().out
    assert "2 items added to hllm: hllm.2, 62 items" in said
    assert new_items.make(settings, "hllm", listed) == "hllm.2" and "unchanged, kept" in capsys.readouterr().out
    more = tmp_path / "more.tsv"
    more.write_text("id\ttitle\nn3\tA cat\n")
    assert new_items.make(settings, "hllm.2", str(more)) == "hllm.3"
    assert new_items.make(settings, "hllm", str(more), "spring") == "spring"
    third = Recommender.load(settings.layout.student("hllm.3"))
    assert third.titles(["n1", "n2", "n3"]) == ["Star, Wars", "A dog", "A cat"]
    first = Recommender.load(settings.layout.student("hllm"))
    assert [added["items"] for added in third.checkpoint.info["added_items"]] == [2, 1]
    assert third.checkpoint.info["added_items"][0]["checkpoint"] == first.checkpoint.hash
    history = first.catalogue.item_ids[1:4]
    assert {"n1", "n2", "n3"} < set(third.recommend([history], len(third.catalogue))[0])
    assert third.recommend([["n1"]], 5) != third.recommend([["n2"]], 5)
    with pytest.raises(UserError, match="'alone' is the name of another model"):
        new_items.make(settings, "hllm", listed, "alone")
    with pytest.raises(UserError, match=r"the new version '\.\./x' cannot be a name"):
        new_items.make(settings, "hllm", listed, "../x")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("id,name\na,b", "has no column 'title'"),
        ("id,title\na,b\na ,c", "item 'a' is there twice"),
        ("id,title\na", "1 rows have not as many values"),
        ("id,title\n", "there are no items to add"),
        ("id,title\na,", "item 'a' has no title"),
    ],
)
def test_files_that_say_something_else_are_refused(
    settings: Settings, tmp_path: Path, content: str, sentence: str
) -> None:
    student.make(settings, "hllm", InProcess())
    (tmp_path / "new.csv").write_text(content)
    with pytest.raises(UserError, match=sentence):
        new_items.make(settings, "hllm", str(tmp_path / "new.csv"), "refused")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"item_training": "lora"}, "the teacher has trained its item language model"),
        ({"item": {"prompt": "A film: "}}, "the text embeddings of the catalogue are not in"),
        (None, "made from other text embeddings"),
        ({}, "is not there any more"),
    ],
)
def test_a_teacher_whose_reading_of_titles_is_lost_is_told(
    settings: Settings, tmp_path: Path, change: dict | None, reason: str
) -> None:
    """A copy of the teacher that says something else of itself, and signals that name it."""
    layout, dataset = Layout(str(tmp_path), "p"), PreparedDataset.load(settings.layout.dataset)
    (tmp_path / "text-embeddings").symlink_to(Path(settings.layout.storage_root, "text-embeddings"))
    loaded = load_checkpoint(settings.layout.teacher)
    if change is None:
        loaded.model.text[1:] = loaded.model.text[1:].flip(0)
    with storage.new_artifact(layout.teacher) as folder:
        told = {**loaded.info, "model": {**loaded.info["model"], **(change or {})}}
        (folder / "config.json").write_text(json.dumps(told))
        save_file(loaded.model.state_dict(), folder / "model.safetensors")
    made_by = storage.read_manifest(layout.teacher).content_hash if change != {} else "another"
    storage.write_json(f"{tmp_path}/signals/signals.json", {"checkpoint_hash": made_by})
    with pytest.raises(UserError, match=reason):
        read_title_side(f"{tmp_path}/signals", "item_embeddings", layout, dataset)
