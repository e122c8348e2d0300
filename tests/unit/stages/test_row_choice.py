"""The stage that chooses the rows, in this process: which they are, and what the signals make of them."""

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
from recsys.histories import Histories
from recsys.rules.config import RULES, RulesConfig
from recsys.rules.fit import fit_rules
from recsys.rules.signals import RulesTeacher
from recsys.settings import Settings
from recsys.signals.row_choice import read_chosen
from recsys.signals.signals import TeacherSignals
from recsys.stages import row_choice, rules
from recsys.stages import signals as signals_stage
from recsys.stages.executor import InProcess
from recsys.students.config import SASRecConfig
from recsys.students.sasrec import SASRec
from recsys.teachers.config import HLLMConfig
from recsys.teachers.hllm import HLLM

ROWS = 20
CHOICES = ("uncertainty", "coverage", "disagreement")


@pytest.fixture
def dataset(random_dataset: Callable[..., PreparedDataset]) -> PreparedDataset:
    return random_dataset(users=15, longest=15)


@pytest.fixture
def project(dataset: PreparedDataset, tmp_path: Path) -> Callable[..., Settings]:
    """A project with a dataset, rules, and a student and a teacher of random weights."""

    def configured(choice: str, *overrides: str) -> Settings:
        options = [
            f"storage={tmp_path}", "name=p", "tracking.uri=none", "signals.k=5", "signals.dtype=fp32",
            "students.alone={model: {kind: sasrec, width: 8, heads: 1}}",
            "students.taught={model: {kind: sasrec, width: 8, heads: 1}, distillation: {signals: rules}}",
            f"signals.choose_rows={choice}", f"signals.train_rows={ROWS}",
        ]  # fmt: skip
        asked = ["signals.choose_student=alone"] if choice in ("uncertainty", "disagreement") else []
        return load_config(Settings, None, [*options, *asked, *overrides])

    layout = configured("random").layout
    dataset.write(layout.dataset)
    fit_rules(dataset, RulesConfig(), tuning=None)[RULES].save(layout.rules(RULES), dataset)
    save_student(layout.student("alone"), dataset, 0)
    teacher = HLLM(HLLMConfig(width=16, heads=2, hidden=16, item_width=8), num_items=dataset.num_items)
    teacher.text.normal_()
    save_checkpoint(layout.teacher, teacher, dataset)
    return configured


def save_student(uri: str, dataset: PreparedDataset, seed: int) -> None:
    torch.manual_seed(seed)
    student = SASRec(SASRecConfig(width=8, heads=1), num_items=dataset.num_items)
    for parameter in student.parameters():
        torch.nn.init.normal_(parameter)
    save_checkpoint(uri, student, dataset)


def choose(settings: Settings, **options: bool) -> np.ndarray:
    return read_chosen(row_choice.make(settings, InProcess(), **options))


def naive_values(settings: Settings, dataset: PreparedDataset) -> dict[int, float]:
    """Row → what it is chosen for, row by row."""
    student = load_checkpoint(settings.layout.student("alone")).model.eval()
    memory = RulesTeacher(load_checkpoint(settings.layout.rules(RULES)).model, dataset)
    values = {}
    for row in dataset.rows("train").tolist():
        with torch.no_grad():
            scores = student.scores(Histories.of_rows(dataset, np.array([row])))[0].double()
        kept = [item for item in range(1, dataset.num_items + 1) if item not in dataset.seen(row)]
        shares = scores[kept].softmax(0)
        values[row] = -float((shares * shares.log()).sum())
        if settings.signals.choose_rows == "disagreement":
            mine = {kept[place] for place in scores[kept].topk(5).indices.tolist()}
            theirs = memory.rank(np.array([row]), 5, mask_history=True, log_mass=False).items[0]
            values[row] = len(mine - set(theirs.tolist())) / 5
    return values


@pytest.mark.parametrize("choice", ["uncertainty", "disagreement"])
def test_the_rows_are_those_of_the_greatest_values(project, dataset: PreparedDataset, choice: str) -> None:
    settings = project(choice)
    rows, values = choose(settings), naive_values(settings, dataset)
    assert len(rows) == ROWS < len(values) and np.array_equal(rows, np.unique(rows))
    lowest = min(values[row] for row in rows.tolist())
    assert max(values[row] for row in values.keys() - set(rows.tolist())) <= lowest + 1e-6
    assert len({round(value, 9) for value in values.values()}) >= 3
    measured = row_choice.measure(settings.signals, settings.layout, dataset, dataset.rows("train"))
    assert measured.tolist() == pytest.approx(list(values.values()), abs=1e-5)
    said = storage.read_json(storage.join(settings.layout.chosen_rows, "chosen.json"))
    assert said.pop("seconds") >= 0
    assert said == {"choose_rows": choice, "choose_student": "alone", "rows": ROWS, "of": len(values)}


def test_coverage_asks_nobody_and_repeats_no_target_while_there_are_others(project, dataset: PreparedDataset) -> None:
    settings = project("coverage")
    storage.delete(settings.layout.student("alone"))
    rows = choose(settings)
    assert len(np.unique(dataset.targets(rows))) == ROWS
    assert np.isin(rows, dataset.rows("train")).all()


@pytest.mark.parametrize("choice", CHOICES)
def test_the_teacher_and_the_rules_rank_the_chosen_rows(project, dataset: PreparedDataset, choice: str) -> None:
    settings = project(choice, "signals.rows_per_shard=7")
    for each in (project("random", "signals.rows_per_shard=7"), settings):  # what is there is not taken for its own
        signals_stage.make(each, InProcess())
        rules.make_signals(each, InProcess())
    others = np.concatenate([dataset.rows("valid"), dataset.rows("test")])
    expected = np.sort(np.concatenate([choose(settings), others]))
    for uri in (settings.layout.signals, settings.layout.signals_of("rules")):
        signals = TeacherSignals.load(uri, dataset)
        assert np.array_equal(signals.rows, expected)
        assert signals.meta.settings["choose_rows"] == choice and signals.meta.rows["train"] == ROWS


def test_what_the_choice_depends_on_is_in_the_keys(project, dataset: PreparedDataset) -> None:
    keys = {choice: signals_stage.key(project(choice)) for choice in ("random", *CHOICES)}
    assert len(set(keys.values())) == 4
    others = {
        "k": signals_stage.key(project("disagreement", "signals.k=4")),
        "rows": signals_stage.key(project("disagreement", "signals.train_rows=21")),
    }
    own = {
        tuple(more): row_choice.key(project("disagreement", *more))
        for more in ([], ["signals.k=4"], ["signals.train_rows=21"], ["signals.mask_history=false"])
    }
    assert len(set(own.values())) == 4
    save_student(project("random").layout.student("alone"), dataset, 1)
    others["student"] = signals_stage.key(project("disagreement"))
    fit_rules(dataset, RulesConfig(window=1), tuning=None)[RULES].save(project("random").layout.rules(RULES), dataset)
    others["rules"] = signals_stage.key(project("disagreement"))
    assert len({keys["disagreement"], *others.values()}) == 5
    assert [signals_stage.key(project(name)) == keys[name] for name in ("random", "coverage", "uncertainty")] == [
        True, True, False,
    ]  # fmt: skip


def test_rows_are_chosen_once_and_anew_for_another_student(project, dataset: PreparedDataset, capfd) -> None:
    settings = project("uncertainty")
    before = choose(settings)
    capfd.readouterr()
    assert np.array_equal(choose(settings), before) and "is up to date" in capfd.readouterr().out
    assert np.array_equal(choose(settings, force=True), before) and "by uncertainty" in capfd.readouterr().out
    save_student(settings.layout.student("alone"), dataset, 1)
    assert not np.array_equal(choose(settings), before)
    assert row_choice.make(project("random"), InProcess()) is None and row_choice.inputs(project("random")) == {}


def test_what_is_not_there_is_said_in_a_line(project, dataset: PreparedDataset, random_dataset) -> None:
    settings = project("disagreement")
    with pytest.raises(UserError, match=r"signals\.k is 60, but there are 60 items minus the longest past of"):
        choose(project("disagreement", "signals.k=60"))
    storage.delete(settings.layout.rules(RULES))
    with pytest.raises(UserError, match=r"there is no sequential rules in .*; run rules first"):
        signals_stage.make(settings, InProcess())
    save_checkpoint(settings.layout.student("alone"), SASRec(SASRecConfig(), num_items=60), random_dataset(seed=1))
    with pytest.raises(UserError, match=r"alone was trained on dataset .*; make it again"):
        choose(project("uncertainty"))
    storage.delete(settings.layout.student("alone"))
    with pytest.raises(UserError, match=r"there is no student alone in .*; run distill --student alone first"):
        signals_stage.make(project("uncertainty"), InProcess())
    for student, message in {
        "taught": r"signals\.choose_student: student 'taught' learns from the teacher itself; name one that is",
        "other": r"signals\.choose_student names student 'other', but the configuration has: alone, taught",
    }.items():
        with pytest.raises(UserError, match=message):
            signals_stage.key(project("uncertainty", f"signals.choose_student={student}"))
    with pytest.raises(UserError, match=r"the chosen rows in .* cannot be read; make the signals again"):
        read_chosen(settings.layout.chosen_rows)


@pytest.mark.parametrize(
    ("choice", "overrides", "message"),
    [
        ("uncertainty", ["signals.choose_student=null"], "asks a student; name it in choose_student"),
        ("coverage", ["signals.choose_student=alone"], "asks no student; leave choose_student out"),
        ("coverage", ["signals.train_rows=null"], "set train_rows to how many"),
        ("coverage", ["signals.splits=[valid]"], "have train among splits"),
        ("margin", [], "choose_rows: should be .random., .uncertainty., .coverage. or"),
    ],
)
def test_a_choice_that_cannot_be_is_refused(project, choice: str, overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        project(choice, *overrides)


@pytest.mark.parametrize("choice", ["uncertainty", "disagreement"])
def test_what_is_no_item_is_in_no_list(project, dataset: PreparedDataset, monkeypatch, choice: str) -> None:
    settings = project(choice)
    of_items = row_choice.measure(settings.signals, settings.layout, dataset, dataset.rows("train"))

    def far_below_nothing(model):
        def score(histories: Histories) -> torch.Tensor:
            scores = model.scores(histories) - 100
            scores[:, 0] = 0
            return scores

        return score

    monkeypatch.setattr(row_choice, "model_scorer", far_below_nothing)
    shifted = row_choice.measure(settings.signals, settings.layout, dataset, dataset.rows("train"))
    assert shifted == pytest.approx(of_items, abs=1e-4)
