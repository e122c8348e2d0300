"""What the sections of a project's configuration may not say together."""

from typing import Any

import pytest

from recsys.config import from_dict, load_config
from recsys.errors import UserError
from recsys.evaluation.baselines import CoOccurrence, RecentPopularity
from recsys.evaluation.ladder import LADDER
from recsys.names import RESERVED_FOR_STUDENTS
from recsys.settings import Settings


@pytest.mark.parametrize(
    ("model", "field"),
    [("{kind: e4srec, ids_from: sasrec}", "ids_from"), ("{kind: bigrec, scores_from: sasrec}", "scores_from")],
)
def test_no_folds_for_a_teacher_that_is_built_from_a_student_of_all_rows(model: str, field: str) -> None:
    assert load_config(Settings, None, [f"teacher.model={model}"]).teacher.folds == 0
    with pytest.raises(UserError, match=f"folds is 2, but the student that model.{field} names has learned"):
        load_config(Settings, None, [f"teacher.model={model}", "teacher.folds=2"])


@pytest.mark.parametrize(
    "name", ["sasrec v2 (λ=0.5)", "..", "", ".", "a/b", "/abs", "-x", ".x", "a\nb", "a" * 101, "x\0", "a:b"]
)
def test_what_cannot_be_a_folder_is_no_name(name: str) -> None:
    student = {"model": {"kind": "sasrec"}}
    for values in ({"name": name}, {"students": {name: student}}, {"serving": {"student": name}}):
        with pytest.raises(UserError, match="cannot be a name, for it becomes a folder; use a to z") as caught:
            from_dict(Settings, values)
        assert "\n" not in str(caught.value)


def test_names_that_are_taken() -> None:
    with pytest.raises(UserError, match="a project cannot be called 'mlflow'"):
        load_config(Settings, None, ["name=mlflow"])
    taken = {RecentPopularity.kind, CoOccurrence.kind, "teacher", LADDER, "ab"}
    assert set(RESERVED_FOR_STUDENTS) == taken
    for name in taken:
        with pytest.raises(UserError, match=f"students.{name}: a student cannot be called '{name}'"):
            from_dict(Settings, {"students": {name: {"model": {"kind": "sasrec"}}}})


def test_good_names() -> None:
    for name in ("a", "sasrec-v1.5_b", "A" * 100, "007"):
        assert name in from_dict(Settings, {"name": name, "students": {name: {"model": {"kind": "gru4rec"}}}}).students


@pytest.mark.parametrize(
    ("overrides", "key", "value"),
    [
        (["storage=/data/run #3"], "storage", "/data/run #3"),
        (["data.source=table", "data.path=2024", "data.columns.user=007"], "data.columns.user", "007"),
        (["data.source=table", "data.path=x", "data.columns={item: 1e3, timestamp: null}"], "data.columns.item", "1e3"),
        (
            ["data.source=table", "data.path=x", "data.columns={item: 1, timestamp: null}"],
            "data.columns.timestamp",
            None,
        ),
        (["teacher.model.item.model=/models/e5 #2"], "teacher.model.item.model", "/models/e5 #2"),
        (["teacher.model.kind=e4srec", "teacher.model.instruction=yes: no"], "teacher.model.instruction", "yes: no"),
        (["tracking.uri=null"], "tracking.uri", None),
        (["serving.salt=0x10"], "serving.salt", "0x10"),
        (["name=2024-01-01"], "name", "2024-01-01"),
    ],
)
def test_overrides_of_text(overrides: list[str], key: str, value: str | None) -> None:
    found: Any = load_config(Settings, None, overrides)
    for part in key.split("."):
        found = getattr(found, part)
    assert found == value


def test_a_variable_of_the_shell_that_is_not_set_is_no_value() -> None:
    for override in ("data.path=", "storage=", "tracking.uri=", "data.min_rating=", "data.columns.timestamp="):
        with pytest.raises(UserError, match="nothing stands after the =; say null for none"):
            load_config(Settings, None, [override])
    for values in ({"storage": " "}, {"tracking": {"uri": ""}}, {"tracking": {"experiment": ".."}}):
        with pytest.raises(UserError):
            from_dict(Settings, values)


def test_folds() -> None:
    for model in ("{kind: hllm}", "{kind: bigrec}"):
        assert load_config(Settings, None, [f"teacher.model={model}", "teacher.folds=2"]).teacher.folds == 2
    with pytest.raises(UserError, match="folds is 1"):
        load_config(Settings, None, ["teacher.folds=1"])
