"""What the sections of a project's configuration may not say together."""

import pytest

from recsys.settings import Settings
from recsys.config import load_config
from recsys.errors import UserError


@pytest.mark.parametrize(
    ("model", "field"),
    [("{kind: e4srec, ids_from: sasrec}", "ids_from"), ("{kind: bigrec, scores_from: sasrec}", "scores_from")],
)
def test_no_folds_for_a_teacher_that_is_built_from_a_student_of_all_rows(model: str, field: str) -> None:
    assert load_config(Settings, None, [f"teacher.model={model}"]).teacher.folds == 0
    with pytest.raises(UserError, match=f"folds is 2, but the student that model.{field} names has learned"):
        load_config(Settings, None, [f"teacher.model={model}", "teacher.folds=2"])


def test_folds() -> None:
    for model in ("{kind: hllm}", "{kind: bigrec}"):
        assert load_config(Settings, None, [f"teacher.model={model}", "teacher.folds=2"]).teacher.folds == 2
    with pytest.raises(UserError, match="folds is 1"):
        load_config(Settings, None, ["teacher.folds=1"])
