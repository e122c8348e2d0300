"""Ray Tune's schedulers as the sweep uses them: after an interruption they decide as without one."""

from collections.abc import Callable

import numpy as np
import pytest
from ray.tune.schedulers import TrialScheduler

from ray_jobs.sweeps.stopping import Former, build_scheduler
from recsys.tuning.config import StoppingConfig
from recsys.tuning.records import Record

Make = Callable[..., Record]
EPOCHS = 9


def stopped_at(scheduler: TrialScheduler, name: str, values: list[float]) -> int | None:
    """The epoch after which a trial with this metric is stopped."""
    trial = Former(name)
    scheduler.on_trial_add(None, trial)
    best = -np.inf
    for epoch, value in enumerate(values, start=1):
        best = max(best, value)
        if scheduler.on_trial_result(None, trial, {"quality": best, "training_iteration": epoch}) == "STOP":
            return epoch
    return None


def naive_asha(former: list[list[float]], values: list[float], grace: int, reduction: int) -> int | None:
    epoch = grace
    while epoch <= EPOCHS:
        others = [max(other[:epoch]) for other in former if len(other) >= epoch]
        mine = max(values[:epoch])
        if others and mine < np.percentile(others, 100 * (1 - 1 / reduction)):
            return epoch
        epoch *= reduction
    return None


@pytest.mark.parametrize("reduction", [2, 3])
def test_asha_decides_as_the_plain_rule(reduction: int, record: Make) -> None:
    generator = np.random.default_rng(reduction)
    ends = []
    for number in range(40):
        curves = [generator.random(int(generator.integers(1, EPOCHS + 1))).tolist() for _ in range(number % 7)]
        scheduler = build_scheduler(
            StoppingConfig(kind="asha", grace=1, reduction=reduction),
            EPOCHS,
            [record(n, curve) for n, curve in enumerate(curves)],
        )
        values = generator.random(EPOCHS).tolist()
        ends.append(stopped_at(scheduler, "new", values))
        assert ends[-1] == naive_asha(curves, values, 1, reduction)
    assert len(set(ends)) > 2, "some run on, some are stopped"


def test_the_median_rule_stops_what_is_worse_than_most(record: Make) -> None:
    former = [record(n, [0.1 * (n + 1)] * EPOCHS) for n in range(5)]
    config = StoppingConfig(kind="median", grace=2)
    assert stopped_at(build_scheduler(config, EPOCHS, former), "good", [0.35] * EPOCHS) is None
    assert stopped_at(build_scheduler(config, EPOCHS, former), "bad", [0.25] * EPOCHS) == 2
    assert stopped_at(build_scheduler(config, EPOCHS, former[:2]), "early", [0.01] * EPOCHS) is None, "too few to judge"


def test_a_trial_that_breaks_does_not_break_the_median(record: Make) -> None:
    scheduler = build_scheduler(
        StoppingConfig(kind="median", grace=2), EPOCHS, [record(n, [0.3] * 6) for n in range(3)]
    )
    broken, never = Former("broken"), Former("never")
    for trial in (broken, never):
        scheduler.on_trial_add(None, trial)
    for epoch in range(1, 6):
        scheduler.on_trial_result(None, broken, {"quality": 0.3, "training_iteration": epoch})
    scheduler.on_trial_result(None, broken, {"failed": "NaN", "training_iteration": 6})
    scheduler.on_trial_complete(None, broken, {"failed": "NaN", "training_iteration": 6})
    scheduler.on_trial_complete(None, never, {})
    assert stopped_at(scheduler, "bad", [0.1] * EPOCHS) == 2
    assert stopped_at(scheduler, "good", [0.5] * EPOCHS) is None


def test_none_stops_nothing(record: Make) -> None:
    scheduler = build_scheduler(StoppingConfig(kind="none"), EPOCHS, [record(0, [0.9] * EPOCHS)])
    assert stopped_at(scheduler, "new", [0.0] * EPOCHS) is None
