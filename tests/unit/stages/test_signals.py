"""The stage that makes teacher signals, in this process: who ranks which row, and which set is whose."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from recsys import storage
from recsys.checkpoint import load_checkpoint, save_checkpoint
from recsys.config import load_config
from recsys.data.prepared import PreparedDataset
from recsys.errors import UserError
from recsys.inference.engine import TeacherEngine
from recsys.inference.ranking import rank_rows
from recsys.settings import Settings
from recsys.signals.signals import TeacherSignals
from recsys.stages import signals as signals_stage
from recsys.stages import student as student_stage
from recsys.stages import teacher as teacher_stage
from recsys.stages.executor import InProcess
from recsys.stages.shards import teacher_uris
from recsys.teachers.config import HLLMConfig
from recsys.teachers.hllm import HLLM

FOLDS = 3


@pytest.fixture
def dataset(random_dataset: Callable[..., PreparedDataset]) -> PreparedDataset:
    return random_dataset(users=20, longest=12)


@pytest.fixture
def project(dataset: PreparedDataset, tmp_path: Path) -> Callable[..., Settings]:
    """A project with a dataset and a teacher of random weights, and one without each of the folds."""

    def configured(*overrides: str) -> Settings:
        options = [
            f"storage={tmp_path}", "name=p", "tracking.uri=none", "signals.k=5", "signals.dtype=fp32",
            "students.one={model: {kind: sasrec, width: 8}, distillation: {ranking: {k: 5}}}",
            "students.two={model: {kind: sasrec, width: 8}, distillation: {ranking: {k: 5}, signals: other}}",
        ]  # fmt: skip
        return load_config(Settings, None, [*options, *overrides])

    settings = configured(f"teacher.folds={FOLDS}")
    dataset.write(settings.layout.dataset)
    for seed, uri in enumerate(teacher_uris(settings)):
        save_teacher(uri, dataset, seed)
    return configured


def save_teacher(uri: str, dataset: PreparedDataset, seed: int) -> None:
    torch.manual_seed(seed)
    model = HLLM(HLLMConfig(width=16, heads=2, hidden=16, item_width=8), num_items=dataset.num_items)
    model.text.normal_()
    save_checkpoint(uri, model, dataset)


def test_each_fold_is_ranked_by_the_teacher_that_did_not_learn_it(
    project: Callable[..., Settings], dataset: PreparedDataset
) -> None:
    settings = project(f"teacher.folds={FOLDS}")
    signals_stage.make(settings, InProcess())
    signals = TeacherSignals.load(settings.layout.signals, dataset)
    assert signals.meta.trained_on == [] and signals.meta.settings["folds"] == FOLDS
    train, fold_of = set(dataset.rows("train").tolist()), dataset.folds(FOLDS)
    everything = np.sort(np.concatenate([dataset.rows(split) for split in ("train", "valid", "test")]))
    assert np.array_equal(signals.rows, everything)
    for number, uri in enumerate(teacher_uris(settings)):
        engine = TeacherEngine(load_checkpoint(uri).model, "fp32")
        expected = rank_rows(engine, dataset, signals.rows, k=5, mask_history=True)
        mine = [
            index
            for index, (row, user) in enumerate(zip(signals.rows, dataset.users_of(signals.rows), strict=True))
            if number == (1 + fold_of[user] if int(row) in train else 0)
        ]
        assert len(mine) > 3
        assert np.array_equal(signals.items[mine], expected.items[mine])
        assert not np.array_equal(signals.items, expected.items), "the teachers differ"


def test_a_teacher_without_a_fold_learns_nothing_of_its_users(
    project: Callable[..., Settings], dataset: PreparedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = project(f"teacher.folds={FOLDS}")
    monkeypatch.setattr(HLLM, "objective", lambda *_arguments, **_options: None)  # what it builds does not matter here
    learned = []
    for fold in [None, *range(FOLDS)]:
        _, seen, _ = teacher_stage.build(settings.teacher, settings.layout, {}, fold)
        learned.append(set(np.unique(dataset.users_of(seen.rows("train"))).tolist()))
    everyone = learned[0]
    for fold in range(FOLDS):
        assert learned[fold + 1] == {user for user in everyone if dataset.folds(FOLDS)[user] != fold}
        assert learned[fold + 1] != everyone


def test_sets_of_signals_lie_side_by_side(project: Callable[..., Settings], dataset: PreparedDataset) -> None:
    settings, other = project(), project("signals.name=other", "signals.k=6")
    signals_stage.make(settings, InProcess())
    usual = storage.read_manifest(settings.layout.signals)
    with pytest.raises(
        UserError, match=r"no set of teacher signals in \S+/p/signals-other; run infer_teacher with signals.name=other"
    ):
        student_stage.key(settings, "two")
    one = student_stage.key(settings, "one")

    save_teacher(settings.layout.teacher, dataset, 9)
    other_work = Path(settings.layout.root, ".signals-abc")  # an unfinished pass of the usual set
    other_work.mkdir()
    signals_stage.make(other, InProcess())
    assert other_work.exists() and storage.read_manifest(settings.layout.signals) == usual
    assert {path.name for path in Path(settings.layout.root).iterdir()} >= {"signals", "signals-other"}
    assert student_stage.key(settings, "one") == one, "it does not learn from the other"
    assert student_stage.key(settings, "two") == student_stage.key(other, "two") == student_stage.key(other, "one")

    items = {}
    for name, uri in (("one", settings.layout.signals), ("two", other.layout.signals)):
        objective, _, _ = student_stage.build(settings.students[name], settings.layout)
        items[name] = TeacherSignals.load(uri, dataset).items[:, :5]
        assert np.array_equal(objective.teacher.items.numpy(), items[name])
    assert not np.array_equal(items["one"], items["two"])
    unnamed = project("signals.name=other", "students.one.distillation={ranking: {k: 5}, signals: ''}")
    objective, _, _ = student_stage.build(unnamed.students["one"], unnamed.layout)
    assert np.array_equal(objective.teacher.items.numpy(), items["one"])


@pytest.mark.parametrize("model", ["{kind: sasrec, width: 8}", "{kind: slmrec, layers: 1}"])
def test_every_student_is_taught_permuted_lists_where_it_says_so(
    project: Callable[..., Settings], dataset: PreparedDataset, model: str
) -> None:
    taught = "distillation: {ranking: {k: 5, permuted: true}, embedding: null}"
    settings = project(f"students.control={{model: {model}, {taught}, training: {{seed: 3}}}}")
    signals_stage.make(settings, InProcess())
    objective, _, _ = student_stage.build(settings.students["control"], settings.layout)
    signals = TeacherSignals.load(settings.layout.signals, dataset)
    expected = signals.permute(dataset.rows("train"), 3)
    assert np.array_equal(objective.teacher.items.numpy(), expected.items)
    assert not np.array_equal(signals.items, expected.items)


@pytest.mark.parametrize("name", ["a/b", "..", "-x", "a b"])
def test_a_set_has_a_name_that_a_folder_can_have(project: Callable[..., Settings], name: str) -> None:
    for override in (f"signals.name='{name}'", f"students.one.distillation.signals='{name}'"):
        with pytest.raises(UserError, match=r"name|signals"):
            project(override)


def test_signals_stay_until_new_ones_are_complete(
    project: Callable[..., Settings], dataset: PreparedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = project()
    signals_stage.make(settings, InProcess())
    usual = storage.read_manifest(settings.layout.signals)
    changed = project("signals.k=7")
    rename = Path.rename

    def killed(*_arguments: object, **_options: object) -> None:
        raise RuntimeError("killed")

    seen = []

    def watched(self: Path, target: str) -> Path:
        seen.append(storage.read_manifest(settings.layout.signals))
        return rename(self, target)

    monkeypatch.setattr(storage, "seal", killed)
    with pytest.raises(RuntimeError, match="killed"):
        signals_stage.make(changed, InProcess())
    assert storage.read_manifest(settings.layout.signals) == usual
    monkeypatch.undo()
    monkeypatch.setattr(Path, "rename", watched)
    signals_stage.make(changed, InProcess())
    assert seen[0] == usual, "they are there when the new ones are"
    assert TeacherSignals.load(settings.layout.signals, dataset).meta.k == 7
    assert not [path.name for path in Path(settings.layout.root).iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("splits", ["[train, valid]", "[valid]"])
def test_the_pass_repeats_what_the_diagnosis_has_warned_of(
    project: Callable[..., Settings], dataset: PreparedDataset, capsys: pytest.CaptureFixture[str], splits: str
) -> None:
    """Of this dataset, and before the rows that cost most."""
    settings = project(f"signals.splits={splits}")
    told = {"dataset": {"fingerprint": dataset.fingerprint}, "warnings": ["Counting beats it."]}
    storage.write_json(storage.join(settings.layout.worth_it, "worth-it.json"), told)
    signals_stage.make(settings, InProcess())
    assert ("worth_it has warned: Counting beats it." in capsys.readouterr().out) == ("train" in splits)
    told["dataset"] = {"fingerprint": "another"}
    storage.write_json(storage.join(settings.layout.worth_it, "worth-it.json"), told)
    signals_stage.make(settings, InProcess(), force=True)
    assert "warned" not in capsys.readouterr().out
