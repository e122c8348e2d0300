import numpy as np
import pytest

from recsys.evaluation.percentiles import bootstrap_percentiles

LEVELS = (50.0, 90.0, 99.0)


def naive(values: np.ndarray, level: float) -> float:
    return sorted(values)[max(0, int(np.ceil(len(values) * level / 100 - 1e-9)) - 1)]


def test_percentiles_and_draws_are_those_of_a_loop() -> None:
    generator = np.random.default_rng(0)
    values, clusters = generator.gamma(2, size=60), generator.integers(0, 7, 60)
    found = bootstrap_percentiles(values, clusters, LEVELS, samples=20, seed=3)
    assert found.values.tolist() == [naive(values, level) for level in LEVELS]
    again = np.random.default_rng(3).multinomial(7, np.full(7, 1 / 7), size=20)
    for counts, draw in zip(again, found.draws, strict=True):
        drawn = np.concatenate([np.repeat(values[clusters == n], count) for n, count in enumerate(counts)])
        assert draw.tolist() == [naive(drawn, level) for level in LEVELS]


def test_memory_does_not_change_what_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).gamma(2, size=50)
    whole = bootstrap_percentiles(values, np.arange(50), LEVELS, samples=30)
    monkeypatch.setattr("recsys.evaluation.percentiles.DRAWS_AT_ONCE", 200)
    assert np.array_equal(bootstrap_percentiles(values, np.arange(50), LEVELS, samples=30).draws, whole.draws)


def test_intervals_hold_as_often_as_they_say_where_clusters_are_alike_inside() -> None:
    generator = np.random.default_rng(1)
    users = np.repeat(np.arange(60), 5)
    right = {"users": 0, "requests": 0}
    for seed in range(200):
        values = np.exp(generator.normal(size=60)[users] + 0.1 * generator.normal(size=300))
        for name, clusters in (("users", users), ("requests", np.arange(300))):
            low, high = bootstrap_percentiles(values, clusters, (50.0,), samples=200, seed=seed).interval()[0]
            right[name] += low <= 1 <= high
    assert right["users"] >= 178, "89 % of 95 %, for three standard errors and the bootstrap's own"
    assert right["requests"] < 150, "requests of a user are no further evidence"


def test_a_difference_is_of_independent_draws() -> None:
    generator = np.random.default_rng(2)
    slow, fast = (
        bootstrap_percentiles(generator.gamma(2, scale, 400), np.arange(400), LEVELS, seed=seed)
        for seed, scale in ((0, 4.0), (1, 1.0))
    )
    difference = slow - fast
    assert difference.values == pytest.approx(slow.values - fast.values)
    low, high = difference.interval()[0]
    assert 0 < low < difference.values[0] < high


def test_one_value() -> None:
    found = bootstrap_percentiles(np.array([3.0]), np.array(["u"]), LEVELS, samples=3)
    assert found.values.tolist() == [3.0] * 3 and found.interval().tolist() == [[3.0, 3.0]] * 3
