"""Who is evaluated, and whom a gain is measured against."""

from pathlib import Path
from typing import Any

import pytest

from recsys.checkpoint import save_checkpoint
from recsys.config import from_dict
from recsys.settings import Settings
from recsys.stages import evaluation
from recsys.students.config import SASRecConfig
from recsys.students.sasrec import SASRec


def student(kind: str = "sasrec", *, taught: bool = False, loss: str = "softmax", seed: int = 0, **model: Any) -> Any:
    values: dict[str, Any] = {"model": {"kind": kind, **model}, "loss": {"kind": loss}, "training": {"seed": seed}}
    return {**values, "distillation": {"embedding": None}} if taught else values


def test_a_distilled_student_is_compared_with_the_one_alone_that_is_most_like_it() -> None:
    students = {
        "bce": student(loss="bce"),
        "narrow": student(width=8),
        "seed": student(seed=1),
        "plain": student(),
        "gru": student("gru4rec"),
        "taught": student(taught=True),
        "taught-seed": student(taught=True, seed=1),
        "taught-narrow": student(taught=True, width=8, seed=1),
        "taught-bce": student(taught=True, loss="bce", width=8),
        "hybrid": {"model": {"kind": "hybrid", "student": "gru"}},
        "small": {"model": {"kind": "compressed", "compression": {"weights": "int8"}}},
    }
    assert evaluation.pair_twins(from_dict(Settings, {"students": students})) == {
        "taught": "plain", "taught-seed": "seed", "taught-narrow": "narrow", "taught-bce": "bce", "hybrid": "gru"
    }  # fmt: skip
    only = {"taught": student(taught=True), "gru": student("gru4rec")}
    assert evaluation.pair_twins(from_dict(Settings, {"students": only})) == {}, "of another kind"


def test_who_has_a_checkpoint_is_evaluated_and_a_missing_student_is_told(
    random_dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = {"name": "p", "storage": str(tmp_path), "students": {"a": student(), "b": student(seed=3)}}
    settings, dataset = from_dict(Settings, values), random_dataset()
    dataset.write(settings.layout.dataset)
    save_checkpoint(settings.layout.student("b"), SASRec(SASRecConfig(width=8), num_items=60), dataset)
    found = {subject.name: subject for subject in evaluation.list_subjects(settings)}
    assert list(found) == ["recent-popularity", "co-occurrence", "b"] and found["b"].seed == 3
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in said] == ["a", "teacher"], "the rules are no part of every project"
    assert [subject.name for subject in evaluation.list_subjects(settings, ["b"])] == ["b"]
    key = found["b"].key
    assert [subject.key for subject in evaluation.list_subjects(settings, ["b"])] == [key]
    save_checkpoint(settings.layout.student("b"), SASRec(SASRecConfig(width=8), num_items=60), dataset)
    assert evaluation.list_subjects(settings, ["b"])[0].key != key
    values["evaluation"] = {"recent_days": 7}
    again = {subject.name: subject.key for subject in evaluation.list_subjects(from_dict(Settings, values))}
    assert again["recent-popularity"] != found["recent-popularity"].key
    assert again["co-occurrence"] == found["co-occurrence"].key
