import math

import pytest

from recsys.experiment.intervals import Interval
from recsys.experiment.verdict import Guardrail, decide


def rail(low: float, high: float, name: str = "click_through", margin: float = 0.01) -> Guardrail:
    return Guardrail(name, Interval((low + high) / 2, low, high), margin)


@pytest.mark.parametrize(
    ("loss", "state"),
    [((-0.02, 0.009), "holds"), ((0.011, 0.02), "broken"), ((-0.02, 0.011), "open"), ((-math.inf, math.inf), "open")],
)
def test_a_guardrail_is_told_by_its_bounds(loss: tuple[float, float], state: str) -> None:
    assert rail(*loss).state == state


def test_all_must_hold_and_one_is_enough_to_refuse() -> None:
    good, bad, unknown = rail(-1, 0), rail(0.5, 1, "errors"), rail(-1, 1, "coverage")
    assert decide([good, good], 0.5).word == "ship"
    assert (decide([good, unknown], 0.5).word, decide([good, unknown], 0.5).reason) == (
        "keep measuring", "not yet known: coverage"
    )  # fmt: skip
    assert (decide([good, unknown, bad], 0.5).word, decide([bad], 0.5).reason) == (
        "do not ship", "worse by more than the margin: errors"
    )  # fmt: skip
    assert decide([], 0.5).word == "keep measuring"


def test_users_that_the_split_did_not_give_make_it_invalid_whatever_else() -> None:
    assert decide([rail(-1, 0)], 0.0009).word == "invalid" and decide([rail(0.5, 1)], 0).word == "invalid"
    assert decide([rail(-1, 0)], 0.0011).word == "ship"
