from typing import Any

import pytest

from recsys.diagnosis.config import WorthItConfig
from recsys.diagnosis.models import cost_of, find_group, teacher_cost

TAUGHT = {"distillation": {"signals": "rules", "ranking": {"permuted": False}}}
PERMUTED = {"distillation": {"signals": "rules", "ranking": {"permuted": True}}}
OF_TEACHER = {"distillation": {"signals": None, "ranking": {"permuted": False}}}
CONTROL = {"distillation": {"signals": None, "ranking": None, "distiller": {"kind": "rrd", "permuted": True}}}


class Stored:
    def __init__(self, settings: dict[str, Any]) -> None:
        self.training = {"settings": settings}


@pytest.mark.parametrize(
    ("row", "settings", "group"),
    [
        ({"role": "baseline", "kind": "co-occurrence"}, {}, "counting"),
        ({"role": "teacher", "kind": "hllm"}, {}, "teacher"),
        ({"role": "student", "kind": "sasrec"}, {}, "alone"),
        ({"role": "student", "kind": "sasrec", "distilled": True}, TAUGHT, "taught"),
        ({"role": "student", "kind": "sasrec", "distilled": True}, PERMUTED, "taught-control"),
        ({"role": "student", "kind": "sasrec", "distilled": True}, OF_TEACHER, "distilled"),
        ({"role": "student", "kind": "sasrec", "distilled": True}, CONTROL, "control"),
        ({"role": "student", "kind": "slmrec", "distilled": True}, {"alignment": {"cosine": 1}}, "distilled"),
        ({"role": "student", "kind": "hybrid"}, {"model": {"student": "a"}}, "hybrid"),
        ({"role": "student", "kind": "hybrid"}, {"model": {"student": "b"}}, "taught"),
        ({"role": "student", "kind": "hybrid"}, {"model": {"student": "c"}}, "control"),
        ({"role": "student", "kind": "hybrid"}, {"model": {"student": "gone"}}, "hybrid"),
    ],
)
def test_what_a_row_is(row: dict[str, Any], settings: dict[str, Any], group: str) -> None:
    students: Any = {"a": Stored({}), "b": Stored(TAUGHT), "c": Stored(CONTROL)}
    assert find_group({"distilled": False, **row}, settings, students) == group


def test_costs_are_hours_times_prices() -> None:
    prices = WorthItConfig(core_hour=0.1, gpu_hour=3)
    assert cost_of(7200, 0, prices) == pytest.approx(0.2) and cost_of(1800, 2, prices) == pytest.approx(3)
    curve = [{"train_seconds": 1000.0, "valid_seconds": 100.0}, {"train_seconds": 700.0}]
    found = teacher_cost(curve, 2, 0, {"device_seconds": 3600.0, "gpus_per_actor": 1}, prices)
    assert found["training_hours"] == pytest.approx(1) and found["pass_hours"] == pytest.approx(1)
    assert found["cost"] == pytest.approx(0.1 + 3)
    assert teacher_cost(curve, 2, 1, None, prices)["cost"] == pytest.approx(3)
