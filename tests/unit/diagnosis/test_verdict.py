from typing import Any

import pytest

from recsys.diagnosis.verdict import HOLDS, NOT, PARTLY, conclude, human_price, judge_shortcuts, warn


def log(*, again: float = 0.001, above: float | None = 0.55, two: float = 0.4, three: float = 0.6) -> dict[str, Any]:
    def reached(number: int | None, share: float) -> dict[str, Any]:
        return {"latest": number, "ndcg@10": {"mean": 0.1 * share}, "hr": {"10": 0.2}}

    return {
        "successors": {"again": {"of_an_item": again, "of_any": 0.001, "times": again / 0.001}},
        "targets": {"kinds": {"direct": 0.2}, "reach": {"direct": 0.01}},
        "resemblance": None
        if above is None
        else {"pairs": 9, "above": above, "cosine": {"successors": 0.1, "strangers": 0.0}},
        "counting": {"sequential-rules": 0.1, "sequential-rules-titles": 0.11},
        "history": {"tries": [reached(1, 0.3), reached(2, two), reached(3, three), reached(None, 1.0)], "reach": 0.6},
    }


@pytest.mark.parametrize(
    ("facts", "states"),
    [
        ({}, [NOT, NOT, NOT]),
        ({"again": 0.1, "above": 0.8, "two": 0.95, "three": 0.99}, [HOLDS, HOLDS, HOLDS]),
        ({"again": 0.02, "above": 0.6, "three": 0.93}, [PARTLY, PARTLY, PARTLY]),
        ({"again": 0.0, "above": None}, [NOT, NOT]),
    ],
)
def test_shortcuts_are_judged_by_their_limits(facts: dict[str, Any], states: list[str]) -> None:
    assert [each["state"] for each in judge_shortcuts(log(**facts))] == states


def test_tries_that_were_not_asked_for_are_not_missed() -> None:
    found = log(two=0.95)
    found["history"]["tries"] = [found["history"]["tries"][1], found["history"]["tries"][-1]]
    assert judge_shortcuts(found)[-1]["state"] == HOLDS
    found["history"]["tries"] = found["history"]["tries"][-1:]
    assert judge_shortcuts(found)[-1]["state"] == NOT


def test_before_any_model_the_log_decides() -> None:
    def said(**facts: Any) -> str:
        found: dict[str, Any] = {"log": log(**facts), "models": None, "warnings": []}
        return conclude(found | {"shortcuts": judge_shortcuts(found["log"])})

    assert said().startswith("The log does not speak against it: 0 of 3 shortcuts hold in full; counting reaches")
    assert said(again=0.1, above=0.9).startswith("Expect little of a language model: 2 of 3 shortcuts")
    assert "0.1000 on validation (0.1100 with the cosine of titles), has the true item among its first ten in" in said()
    assert "in 20% of the rows, and can rank 60% of the true items" in said()


def models(*, better: dict[tuple[str, str], tuple[float, float]], **quality: float) -> dict[str, Any]:
    """Groups that are there, their NDCG@10, and intervals of the differences that matter."""
    without = max((g for g in quality if g in ("counting", "alone", "hybrid")), key=lambda g: quality[g])
    best = {group: group for group in quality} | {"without": without}
    return {
        "best": best,
        "rows": [{"name": group, "ndcg@10": {"mean": mean}} for group, mean in quality.items()],
        "better": [
            {"of": best[one], "over": best[other], "mean": (low + high) / 2, "low": low, "high": high}
            for (one, other), (low, high) in better.items()
        ],
    }


def told(made: dict[str, Any] | None, sample: dict[str, Any] | None = None) -> tuple[list[str], str]:
    cost = {"training_hours": 1.0, "pass_hours": 3.0, "cost": 8.0}
    found: dict[str, Any] = {"log": log(), "models": made, "sample": sample, "teacher_cost": cost}
    found |= {"shortcuts": judge_shortcuts(found["log"]), "warnings": warn(found)}
    return found["warnings"], conclude(found)


def test_counts_above_a_student_are_an_early_warning() -> None:
    warnings, said = told(models(better={("counting", "alone"): (0.01, 0.02)}, counting=0.12, alone=0.1))
    assert len(warnings) == 1
    assert warnings[0].startswith(
        "Counting (counting, 0.1200) beats the best student that learned alone (alone, 0.1000)"
    )
    assert said.startswith("Nothing was taught by a teacher yet. ") and said.endswith("The warnings above come first.")
    (unsure,), _ = told(models(better={("counting", "alone"): (-0.01, 0.02)}, counting=0.12, alone=0.11))
    assert "is not shown to be worse than" in unsure
    assert told(models(better={("counting", "alone"): (-0.02, -0.01)}, counting=0.1, alone=0.12))[0] == []


@pytest.mark.parametrize(
    ("interval", "begins", "ends"),
    [
        ((0.01, 0.03), "Worth it so far: distilled is better than alone", "or 4.00 for each hundredth of NDCG@10."),
        ((-0.01, 0.02), "Not shown to be worth it: distilled and alone", "or 16.00 for each hundredth of NDCG@10."),
        ((-0.03, -0.01), "Not worth it as it stands: alone needs no teacher", "took 4.00 hours and cost 8.00."),
    ],
)
def test_the_verdict_is_that_of_the_interval(interval: tuple[float, float], begins: str, ends: str) -> None:
    made = models(better={("distilled", "without"): interval}, alone=0.1, counting=0.05, distilled=0.11)
    _, said = told(made)
    assert said.startswith(begins) and said.endswith(ends)


def test_a_teacher_or_a_control_that_is_no_better_is_told() -> None:
    made = models(
        better={
            ("teacher", "alone"): (-0.01, 0.01),
            ("teacher", "counting"): (0.01, 0.02),
            ("distilled", "control"): (-0.01, 0.01),
            ("taught", "taught-control"): (0.01, 0.02),
            ("distilled", "without"): (0.001, 0.02),
        },
        alone=0.1, counting=0.05, teacher=0.1, distilled=0.11, control=0.11,
        **{"taught": 0.1, "taught-control": 0.08},
    )  # fmt: skip
    warnings, _ = told(made)
    assert [each.split(" is not ")[0] for each in warnings] == ["The teacher (0.1000)", "distilled"]
    (below,), _ = told(models(better={("teacher", "alone"): (-0.02, -0.01)}, alone=0.1, teacher=0.09))
    assert below.startswith("The teacher (0.0900) ranks below alone (0.1000): -0.0150, 95 % [-0.0200, -0.0100]")


def test_prices_keep_the_digits_that_say_something() -> None:
    assert [human_price(value) for value in (0.0132, 0.5, 1.234, 154.3, 12345.0)] == [
        "0.013", "0.5", "1.23", "154", "12,345"
    ]  # fmt: skip


def test_a_teacher_is_tried_on_a_sample() -> None:
    def sample(low: float) -> dict[str, Any]:
        over = {"of": "teacher", "over": "sasrec", "reached": 0.1, "mean": 0.01, "low": low, "high": 0.02}
        return {"rows": 500, "teacher": 0.11, "better": [over]}

    (warning,), _ = told(None, sample(-0.01))
    assert warning.startswith(
        "On 500 validation rows the teacher (0.1100) is not shown to be better than sasrec (0.1000)"
    )
    assert told(None, sample(0.001))[0] == []
