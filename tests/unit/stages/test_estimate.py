import numpy as np

from recsys.signals.config import SignalsConfig
from recsys.signals.writer import ShardPlan
from recsys.stages.estimate import Timing, describe


def test_hours_follow_from_the_busiest_actor() -> None:
    plan = ShardPlan(rows=np.arange(10_000), rows_per_shard=1000)
    lines = describe(Timing(10.0, 500, 5.0, "a thing"), plan, SignalsConfig(actors=3, cpus=0.5))
    seconds = {}
    for line in lines[3:]:
        actors, time, unit, spent = line.split()
        seconds[actors] = float(time) * (60 if unit == "min" else 1)
        assert float(spent) > 0
    # 10 shards of 10 s each after 10 s of loading; 3 actors have 4, 3 and 3 of them.
    assert seconds == {"1": 110.0, "2": 60.0, "3*": 50.0, "4": 40.0, "8": 30.0, "16": 20.0}
    assert "100.0 rows/s" in lines[0]
