"""The order of the steps, and what is told at the end."""

from pathlib import Path
from typing import Any

import pytest

from recsys.config import from_dict
from recsys.settings import Settings
from recsys.stages import pipeline, rules, student, teacher
from recsys.stages.executor import InProcess


def test_a_student_that_the_teacher_is_built_from_is_made_once_even_by_force(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[str, bool]] = []
    monkeypatch.setattr(student, "make", lambda settings, name, executor, force: made.append((name, force)))
    monkeypatch.setattr(teacher, "make", lambda settings, executor, force: made.append(("teacher", force)))
    students = {"ids": {"model": {"kind": "sasrec"}}, "cut": {"model": {"kind": "slmrec", "layers": 1}}}
    values: dict[str, Any] = {"students": students, "teacher": {"model": {"kind": "e4srec", "ids_from": "ids"}}}
    settings = from_dict(Settings, values)
    for step in ("train_teacher", "distill"):
        pipeline.STEPS[step](settings, InProcess(), True)
    assert made == [("ids", True), ("teacher", True), ("ids", False), ("cut", True)]


def test_a_student_that_rows_are_chosen_by_is_made_once_and_before_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[str, bool]] = []
    monkeypatch.setattr(student, "make", lambda settings, name, executor, force: made.append((name, force)))
    monkeypatch.setattr(teacher, "make", lambda settings, executor, force: made.append(("teacher", force)))
    monkeypatch.setattr(rules, "make", lambda settings, executor, force, signals: made.append(("rules", signals)))
    monkeypatch.setattr(rules, "make_signals", lambda settings, executor, force: made.append(("signals", force)))
    students = {"ids": {"model": {"kind": "sasrec"}}, "other": {"model": {"kind": "sasrec"}}}
    values: dict[str, Any] = {"students": students, "teacher": {"model": {"kind": "e4srec", "ids_from": "ids"}}}
    values["signals"] = {"choose_rows": "uncertainty", "choose_student": "ids", "train_rows": 5}
    settings = from_dict(Settings, values)
    for step in ("rules", "train_teacher", "distill"):
        pipeline.STEPS[step](settings, InProcess(), True)
    assert made[:3] == [("rules", False), ("ids", True), ("signals", True)]
    assert made[3:] == [("ids", False), ("teacher", True), ("ids", False), ("other", True)]


def test_what_is_there_is_located(random_dataset, tmp_path: Path) -> None:
    values = {"name": "p", "storage": str(tmp_path), "students": {"a": {"model": {"kind": "sasrec"}}}}
    settings = from_dict(Settings, values)
    random_dataset().write(settings.layout.dataset)
    (tmp_path / "p" / "students" / "a").mkdir(parents=True)
    *lines, mlflow = pipeline.locations(settings)
    assert [line.split() for line in lines] == [
        ["student", "a", settings.layout.student("a")], ["dataset", settings.layout.dataset]
    ]  # fmt: skip
    assert mlflow.split()[0] == "MLflow" and len({line.rindex("  ") for line in [*lines, mlflow]}) == 1
    said = pipeline.dataset_facts(settings)
    assert said.startswith("dataset random: 12 users, 60 items") and "12 test rows by leave_one_out" in said
