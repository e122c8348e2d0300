import numpy as np
import pytest

from recsys.evaluation import statistics
from recsys.evaluation.statistics import paired_bootstrap


def test_agrees_with_the_normal_approximation() -> None:
    generator = np.random.default_rng(0)
    b = generator.random(400)
    a = b + 0.05 + 0.2 * generator.standard_normal(400)
    interval = paired_bootstrap(a, b, np.arange(400), samples=4000)
    error = 1.96 * (a - b).std() / 20
    assert interval.difference == pytest.approx((a - b).mean())
    assert interval.low == pytest.approx((a - b).mean() - error, abs=0.1 * error)
    assert interval.high == pytest.approx((a - b).mean() + error, abs=0.1 * error)
    assert interval.low > 0 and interval.users == 400


def test_rows_of_a_user_are_drawn_together() -> None:
    """A hundred equal rows of a user say no more than one, so the interval must not shrink."""
    difference = np.array([1.0, -1.0, 0.5, -0.5, 0.2])
    users = np.arange(5)
    single = paired_bootstrap(difference, np.zeros(5), users)
    repeated = paired_bootstrap(np.repeat(difference, 100), np.zeros(500), np.repeat(users, 100))
    assert (repeated.low, repeated.high) == pytest.approx((single.low, single.high))
    assert single.low <= 0 <= single.high


def test_users_with_more_rows_weigh_more() -> None:
    interval = paired_bootstrap(np.array([1.0, 1.0, 1.0, 0.0]), np.zeros(4), np.array([0, 0, 0, 1]))
    assert interval.difference == 0.75


def test_the_interval_is_that_of_a_loop_over_samples() -> None:
    a, b = np.random.default_rng(1).random((2, 7))
    users = np.array([0, 1, 1, 1, 1, 2, 2])
    rows_of = [np.flatnonzero(users == user) for user in range(3)]
    means = []
    for drawn in np.random.default_rng(5).integers(3, size=(400, 3)):
        rows = np.concatenate([rows_of[user] for user in drawn])
        means.append((a[rows] - b[rows]).mean())
    interval = paired_bootstrap(a, b, users, samples=400, confidence=0.9, seed=5)
    assert (interval.low, interval.high) == pytest.approx(np.quantile(means, [0.05, 0.95]))


def test_same_seed_same_interval_whatever_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = np.random.default_rng(1).random((2, 50))
    whole = paired_bootstrap(a, b, np.arange(50), samples=300, seed=4)
    assert whole == paired_bootstrap(a, b, np.arange(50), samples=300, seed=4)
    monkeypatch.setattr(statistics, "DRAWS_AT_ONCE", 500)
    assert whole == paired_bootstrap(a, b, np.arange(50), samples=300, seed=4)
    assert whole != paired_bootstrap(a, b, np.arange(50), samples=300, seed=5)


def test_equal_models_differ_by_nothing() -> None:
    a = np.random.default_rng(2).random(30)
    interval = paired_bootstrap(a, a, np.arange(30))
    assert (interval.difference, interval.low, interval.high) == (0, 0, 0)
    assert interval.low <= 0 <= interval.high
