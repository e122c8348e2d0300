import numpy as np
import pytest

from recsys.experiment.balance import LEAST_P, compare_with_split


def test_a_sound_split_is_rarely_refused_and_a_leak_is_found() -> None:
    generator = np.random.default_rng(0)
    split = {"teacher": 0.3, "student": 0.7}
    drawn = generator.binomial(5000, 0.3, size=1000)
    p = np.array([compare_with_split({"teacher": n, "student": 5000 - n}, split) for n in drawn])
    assert (p < LEAST_P).mean() < 0.005 and (p < 0.5).mean() == pytest.approx(0.5, abs=0.05)
    assert compare_with_split({"teacher": 1500, "student": 3000}, split) < LEAST_P


def test_by_hand() -> None:
    # χ² = 2 · 10² / 50 = 4 with one degree of freedom.
    assert compare_with_split({"teacher": 60, "student": 40}, {"teacher": 0.5, "student": 0.5}) == pytest.approx(
        0.0455, abs=1e-4
    )


def test_borders() -> None:
    halves = {"teacher": 0.5, "student": 0.5, "null": 0.0}
    assert compare_with_split({"teacher": 50, "student": 50, "null": 1}, halves) == 0, (
        "an arm that gets no users has one"
    )
    assert compare_with_split({}, halves) == 1
    assert compare_with_split({"student": 9}, {"student": 1.0}) == 1
    assert compare_with_split({"student": 40}, halves) < LEAST_P, "an arm that has lost all its users"
