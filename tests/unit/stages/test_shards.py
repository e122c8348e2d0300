"""How a pass is told, and when it is given up."""

import numpy as np
import pytest

from recsys.errors import UserError
from recsys.signals.config import SignalsConfig
from recsys.signals.writer import ShardPlan
from recsys.stages import shards
from recsys.stages.shards import Counts, ShardedPass

PASS = ShardedPass("dataset", ["teacher"], "signals", "key", SignalsConfig(), None)
PLAN = ShardPlan(rows=np.arange(4000), rows_per_shard=600)


def test_a_teacher_without_a_finite_prediction_is_refused_after_many_rows() -> None:
    with (
        pytest.raises(UserError, match=r"not finite for all of the first 1,200 rows"),
        PASS.progress(PLAN, range(7)) as add,
    ):
        add(Counts(600, 600, 0))
        add(Counts(600, 600, 0))
    with PASS.progress(PLAN, range(7)) as add:
        for aside in (599, 600, 600):
            add(Counts(600, aside, 0))
    with PASS.progress(PLAN, range(1, 7)) as add:  # shards of an earlier run had some
        add(Counts(600, 600, 0))
        add(Counts(600, 600, 0))


def test_rates_count_from_the_end_of_the_first_shard(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(shards.time, "perf_counter", lambda: now[0])
    with PASS.progress(PLAN, range(7)) as add:
        for seconds in (100.0, 10.0, 10.0):  # the first starts the workers
            now[0] += seconds
            add(Counts(600, 0, 3000))
    assert capsys.readouterr().out.splitlines()[-1] == (
        "signals: 1,800 of 4,000 rows, 60 rows/s, 300 tokens/s, 37 s left"
    )
    with PASS.progress(PLAN, [6]) as add:
        now[0] += 7
        add(Counts(400, 0, 0))
    assert capsys.readouterr().out.splitlines()[-1] == "signals: 400 of 400 rows, 7 s"
