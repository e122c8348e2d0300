import json

import pyarrow.compute as pc
import pytest

from recsys.errors import UserError
from recsys.experiment.analysis import analyse
from recsys.experiment.config import ExperimentConfig
from tests.unit.experiment.conftest import SPLIT, exposure, simulate, to_table

CONFIG = ExperimentConfig(margin=0.05, error_margin=0.05, coverage_margin=0.2, planned=3000)
SAME = {"teacher": 0.2, "student": 0.2}


def test_an_equal_student_is_shipped_and_the_report_is_json() -> None:
    found = analyse(simulate(clicks=SAME), CONFIG, SPLIT)
    assert (found["verdict"], found["reason"].count(",")) == ("ship", 3)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    teacher, student = found["arms"]["teacher"], found["arms"]["student"]
    assert teacher["users"] + student["users"] == 1500
    rate = teacher["clicked"] / teacher["answers"]
    assert teacher["click_through"]["value"] == pytest.approx(rate) == pytest.approx(0.2, abs=0.03)
    assert teacher["click_through"]["low"] < 0.2 < teacher["click_through"]["high"]
    faster = found["differences"]["milliseconds"]["p95"]
    assert faster["low"] < faster["value"] < faster["high"] < -5


@pytest.mark.parametrize(
    ("log", "verdict", "reason"),
    [
        ({"clicks": {"teacher": 0.4, "student": 0.2}}, "do not ship", "click_through"),
        ({"clicks": SAME, "failures": {"student": 0.3}}, "do not ship", "errors"),
        ({"clicks": SAME, "items": {"teacher": 200, "student": 6}}, "do not ship", "coverage"),
        ({"clicks": SAME, "users": 120}, "keep measuring", "coverage"),
        ({"clicks": SAME, "lost": 0.3}, "invalid", "the users that the split gives"),
    ],
)
def test_what_is_wrong_is_named(log: dict, verdict: str, reason: str) -> None:
    found = analyse(simulate(**log), CONFIG, SPLIT)
    assert found["verdict"] == verdict and reason in found["reason"]
    if log.get("users"):
        assert found["arms"]["student"]["coverage"]["low"] is None


def test_without_users_of_both_arms_there_is_nothing_to_say() -> None:
    with pytest.raises(UserError, match="no request of a user who was assigned to the student arm"):
        analyse(to_table([exposure("a", "u1", "teacher", 1.0)]), CONFIG, SPLIT)


def test_an_arm_against_itself_is_refused() -> None:
    with pytest.raises(ValueError, match="name two arms"):
        ExperimentConfig(control="student")


def test_any_two_arms_may_be_compared() -> None:
    log = simulate(clicks=SAME)
    arms = pc.replace_substring(log["arm"], "student", "challenger")
    renamed = log.set_column(log.schema.get_field_index("arm"), "arm", arms)
    config = ExperimentConfig(**{**vars(CONFIG), "treatment": "challenger"})
    found, expected = analyse(renamed, config, {"teacher": 0.5, "challenger": 0.5}), analyse(log, CONFIG, SPLIT)
    assert found["verdict"] == expected["verdict"] and found["arms"].keys() == {"teacher", "challenger"}
    assert found["differences"]["click_through"]["value"] == expected["differences"]["click_through"]["value"]
