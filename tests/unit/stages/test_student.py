"""The order of the students, and what their keys hold and say."""

from pathlib import Path
from typing import Any

import pytest

from recsys.checkpoint import save_checkpoint
from recsys.config import from_dict
from recsys.errors import UserError
from recsys.rules.config import RulesConfig
from recsys.rules.fit import fit_rules
from recsys.settings import Settings
from recsys.stages import student as stage
from recsys.students.config import SASRecConfig
from recsys.students.sasrec import SASRec

SASREC = {"kind": "sasrec", "width": 8}
TAUGHT = {"model": SASREC, "distillation": {"embedding": None}}


def slmrec(teacher: str = "") -> dict[str, Any]:
    return {"model": {"kind": "slmrec", "layers": 1, "teacher": teacher}}


def settings_of(students: dict[str, Any], **values: Any) -> Settings:
    return from_dict(Settings, {"name": "p", "students": students, **values})


def test_what_a_student_is_made_from_comes_first_and_what_is_distilled_last() -> None:
    students = {
        "taught": TAUGHT, "shallow": slmrec("deep"), "deep": slmrec(), "mixed": {"model": {"kind": "hybrid", "student":
        "taught"}}, "alone": {"model": SASREC},
    }  # fmt: skip
    assert stage.order_students(settings_of(students)) == ["deep", "shallow", "taught", "mixed", "alone"]
    assert stage.order_students(settings_of({"taught": TAUGHT, "alone": {"model": SASREC}})) == ["alone", "taught"]
    with pytest.raises(UserError, match=r"students\.[ab]\.model\.teacher: in the end it is its own teacher"):
        stage.order_students(settings_of({"a": slmrec("b"), "b": slmrec("a")}))
    with pytest.raises(UserError, match="has no student 'c'; it has: a"):
        stage.order_students(settings_of({"a": slmrec("c")}))


@pytest.mark.parametrize(
    ("signals", "job"),
    [
        (None, "run infer_teacher first"),
        ("rules", "run rules first"),
        ("other", "infer_teacher with signals.name=other"),
    ],
)
def test_signals_that_are_missing_are_named_with_what_makes_them(
    random_dataset, tmp_path: Path, signals: str | None, job: str
) -> None:
    taught = {"model": SASREC, "distillation": {"embedding": None, "signals": signals}}
    settings = settings_of({"taught": taught}, storage=str(tmp_path))
    random_dataset().write(settings.layout.dataset)
    with pytest.raises(UserError, match=job):
        stage.key(settings, "taught")


def test_a_hybrid_depends_on_its_student_on_the_rules_and_on_their_tuning(random_dataset, tmp_path: Path) -> None:
    def settings(**rules: Any) -> Settings:
        students = {"a": {"model": SASREC}, "mixed": {"model": {"kind": "hybrid", "student": "a"}}}
        return settings_of(students, storage=str(tmp_path), rules=rules)

    layout, dataset = settings().layout, random_dataset()

    def save_rules(**constants: Any) -> None:
        fit_rules(dataset, RulesConfig(**constants))["sequential-rules"].save(layout.rules("sequential-rules"), dataset)

    dataset.write(layout.dataset)
    with pytest.raises(UserError, match="no sequential rules"):
        stage.key(settings(), "mixed")
    save_rules()
    with pytest.raises(UserError, match="run distill --student a first"):
        stage.key(settings(), "mixed")
    save_checkpoint(layout.student("a"), SASRec(SASRecConfig(width=8), num_items=60), dataset)
    keys = [stage.key(settings(), "mixed"), stage.key(settings(tuning={"student_rules": [0.0, 1.0]}), "mixed")]
    save_rules(window=1)
    keys.append(stage.key(settings(), "mixed"))
    save_checkpoint(layout.student("a"), SASRec(SASRecConfig(width=8), num_items=60), dataset)
    keys.append(stage.key(settings(), "mixed"))
    assert len(set(keys)) == 4
