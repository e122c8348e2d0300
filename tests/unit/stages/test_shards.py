"""What a pass says of itself while it runs."""

import numpy as np
import pytest

from recsys.errors import UserError
from recsys.stages import shards
from recsys.stages.shards import Counts, Tally


def test_few_shards_are_told_at_the_speed_of_the_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(shards.time, "perf_counter", lambda: now[0])
    tally = Tally("signals", 96, 2, fresh=True)
    now[0] = 170.0
    assert tally.line() == "signals: 0 of 96 rows, 70 s"
    # Two actors end a shard each at nearly the same moment, after 40 s of work and 30 of starting.
    tally.add(Counts(32, 0, 6400, 40.0))
    now[0] = 170.01
    tally.add(Counts(32, 0, 6400, 40.0))
    assert tally.line() == "signals: 64 of 96 rows, 1.6 rows/s, 320 tokens/s, 20 s left"


def test_many_shards_are_told_at_the_speed_of_all_workers() -> None:
    tally = Tally("signals", 40_000, 4, fresh=True)
    for seconds in np.linspace(1, 3, 8):
        tally.add(Counts(1000, 0, 50_000, float(seconds)))
    assert tally.line() == "signals: 8,000 of 40,000 rows, 2,000 rows/s, 100,000 tokens/s, 16 s left"


def test_a_teacher_without_one_finite_prediction_is_known_early() -> None:
    tally = Tally("signals", 10_000, 1, fresh=True)
    tally.add(Counts(600, 600, 0, 1.0))
    with pytest.raises(UserError, match="first 1,200 rows"):
        tally.add(Counts(600, 600, 0, 1.0))
