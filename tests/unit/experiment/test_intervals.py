"""Thousands of simulated experiments, looked at again and again: what is claimed of all looks must hold of all."""

import math

import numpy as np
import pytest

from recsys.experiment.intervals import LEAST_UNITS, Interval, Mean, confide, estimate_mean, estimate_share

ALPHA = 0.05
LOOKS = np.unique(np.geomspace(60, 20_000, 60).astype(int))


def most(experiments: int) -> float:
    """The share of false alarms that is claimed, and three standard errors of so many experiments."""
    return ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / experiments)


def excludes(interval: Interval, value: float) -> np.ndarray:
    return (interval.low > value) | (interval.high < value)


def simulate_shares(generator: np.random.Generator, share: float, experiments: int = 2000) -> Mean:
    """[experiments, looks] shares of independent users with one trial each, as `estimate_share` tells them."""
    more = np.diff(LOOKS, prepend=0)
    hits = np.cumsum(generator.binomial(more, share, size=(experiments, len(more))), axis=1)
    share_, careful = hits / LOOKS, (hits + 2) / (LOOKS + 4)
    spread = careful * (1 - careful)
    variance = np.maximum(share_ * (1 - share_) / (LOOKS - 1), spread / LOOKS)
    return Mean(share_, variance, spread, np.broadcast_to(LOOKS, hits.shape))


def test_the_simulated_shares_are_those_of_the_estimator() -> None:
    users = np.zeros((3, 200))
    users[0, :7], users[1, :100] = 1, 1
    estimated = estimate_share(users, np.ones_like(users))
    share, careful = users.mean(1), (users.sum(1) + 2) / 204
    assert estimated.value == pytest.approx(share)
    assert estimated.spread == pytest.approx(careful * (1 - careful))
    assert estimated.variance == pytest.approx(np.maximum(share * (1 - share) / 199, careful * (1 - careful) / 200))


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5])
@pytest.mark.parametrize("planned", [500, 5000])
def test_equal_arms_differ_no_more_often_than_claimed_however_often_one_looks(share: float, planned: int) -> None:
    generator = np.random.default_rng(1)
    one, other = (simulate_shares(generator, share) for _ in range(2))
    difference = other - one
    assert excludes(confide(difference, planned=planned), 0).any(axis=1).mean() <= most(2000)
    assert excludes(confide(one, planned=planned), share).any(axis=1).mean() <= most(2000)
    # What would be right at one look is wrong a quarter of the time or more.
    naive = np.abs(difference.value) > 1.96 * np.sqrt(difference.variance)
    assert naive.any(axis=1).mean() > 0.25
    assert naive[:, -1].mean() <= most(2000)


def test_a_true_difference_is_found() -> None:
    generator = np.random.default_rng(2)
    difference = simulate_shares(generator, 0.12) - simulate_shares(generator, 0.10)
    found = excludes(confide(difference, planned=5000), 0)
    assert found[:, LOOKS <= 6000].any(axis=1).mean() > 0.5
    assert found.any(axis=1).mean() > 0.98


def test_a_loss_of_just_the_margin_is_rarely_taken_for_less() -> None:
    generator = np.random.default_rng(5)
    difference = simulate_shares(generator, 0.15) - simulate_shares(generator, 0.20)
    shipped = (confide(difference, planned=5000).low > -0.05).any(axis=1)
    assert shipped.mean() <= ALPHA / 2 + 3 * math.sqrt(ALPHA / 2 / 2000)


@pytest.mark.parametrize("habits", [(1, 9), (100, 900)], ids=["users differ", "users are alike"])
def test_users_who_return_count_for_what_they_tell(habits: tuple[int, int]) -> None:
    generator = np.random.default_rng(3)
    experiments, users, looks = 500, 150, 30

    def arm() -> Mean:
        taste = generator.beta(*habits, size=(experiments, 1, users))
        often = generator.gamma(1, 1, size=(experiments, 1, users))
        trials = generator.poisson(np.broadcast_to(often, (experiments, looks, users)))
        hits = generator.binomial(trials, taste)
        return estimate_share(hits.cumsum(1), trials.cumsum(1))

    difference = arm() - arm()
    assert excludes(confide(difference, planned=1000), 0).any(axis=1).mean() <= most(experiments)
    naive = np.abs(difference.value) > 1.96 * np.sqrt(difference.variance)
    assert naive.any(axis=1).mean() > most(experiments) + 0.05
    if habits == (1, 9):  # taken for independent, even one look is wrong
        variance = 2 * 0.1 * 0.9 / (users * looks)
        assert (np.abs(difference.value[:, -1]) > 1.96 * math.sqrt(variance)).mean() > 2 * ALPHA


def test_means_of_few_values_hold_as_well() -> None:
    generator = np.random.default_rng(4)
    looks = range(LEAST_UNITS, 400, 10)
    values = generator.binomial(50, 0.7, size=(2, 1000, 400)) / 50
    ever = np.zeros(1000, dtype=bool)
    for count in looks:
        one, other = (estimate_mean(arm[:, :count]) for arm in values)
        ever |= excludes(confide(other - one, planned=100), 0)
    assert ever.mean() <= most(1000)


def test_the_variance_of_a_ratio_by_hand() -> None:
    hits, trials = [2, 0, 0, 1] * 10, [4, 0, 2, 2] * 10
    mean = estimate_share(hits, trials)
    share = 30 / 80
    squares = 10 * ((2 - share * 4) ** 2 + (0 - share * 2) ** 2 + (1 - share * 2) ** 2)
    assert mean.value == share and mean.units == 30, "a user without a trial is none"
    assert mean.variance == pytest.approx(max(squares * 30 / 29 / 80**2, mean.spread / 80))


def test_the_published_formula() -> None:
    """The formula of Waudby-Smith et al. as it is written there; its best ρ found by trying."""
    t, sd, alpha = 700, 0.3, 0.1
    mean = Mean(0.2, sd**2 / t, sd**2, t)

    def half(rho: float, t: float) -> float:
        return sd * math.sqrt((t * rho**2 + 1) / (t**2 * rho**2) * math.log((t * rho**2 + 1) / alpha**2))

    rhos = np.geomspace(1e-3, 10, 20_000)
    best = min(rhos, key=lambda rho: half(rho, 1000))
    told = confide(mean, planned=1000, confidence=0.9)
    assert told.high - told.value == pytest.approx(half(best, t), rel=1e-3)
    assert told.value - told.low == pytest.approx(told.high - told.value)


def test_too_little_is_no_interval() -> None:
    few = estimate_share(np.ones(LEAST_UNITS - 1), np.ones(LEAST_UNITS - 1))
    assert confide(few, planned=100).high == math.inf
    nobody = estimate_share([], [])
    assert (nobody.value, confide(nobody, planned=100).low) == (0, -math.inf)
    assert confide(estimate_mean([]), planned=100).high == math.inf
    same = confide(estimate_share(np.zeros(1000), np.ones(1000)), planned=1000)
    assert 0 < same.high < 0.02, "no hit at all is not certainty"
