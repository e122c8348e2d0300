"""What a cluster can never give is refused; the nodes are made up."""

import pytest
import ray

from ray_jobs.cluster import runtime, shard_pool
from ray_jobs.training import train_runs
from recsys.errors import UserError
from recsys.settings import WorkersConfig
from recsys.signals.config import SignalsConfig
from recsys.stages.shards import ShardedPass


@pytest.fixture(autouse=True)
def nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two nodes of 4 cores, one of them with 2 GPUs; a third has died."""
    sizes = [{"CPU": 4.0, "memory": 1e9}, {"CPU": 4.0, "GPU": 2.0}, {"CPU": 64.0, "GPU": 8.0}]
    found = [{"Resources": size, "Alive": number < 2} for number, size in enumerate(sizes)]
    monkeypatch.setattr(ray, "nodes", lambda: found)
    monkeypatch.delenv("RECSYS_AUTOSCALING", raising=False)


@pytest.mark.parametrize(
    ("count", "cpus", "gpus", "fits"),
    [
        (1, 4, 0, True),
        (1, 5, 0, False),  # eight cores, but none has five
        (8, 0.9, 0, True),
        (9, 0.9, 0, False),
        (2, 0.9, 1, True),
        (3, 0.9, 1, False),
        (4, 0.1, 0.5, True),
        (1, 1, 3, False),
    ],
)
def test_everyone_needs_a_place_on_one_node(count: int, cpus: float, gpus: float, fits: bool) -> None:
    asked = {"cpus": cpus, "gpus": gpus, "lower": "something", "count": count}
    if fits:
        runtime.check_room("one", **asked)
        return
    with pytest.raises(UserError, match=r"one asks for .*; 4 CPU and 0 GPU\); lower something \(on a cluster"):
        runtime.check_room("one", **asked)


def test_a_cluster_that_grows_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECSYS_AUTOSCALING", "1")
    runtime.check_room("one", cpus=1000, gpus=1000, lower="nothing")


def test_workers_and_actors_name_their_settings() -> None:
    train_runs.check_room(WorkersConfig(workers=2, gpus=1))
    with pytest.raises(UserError, match=r"each of 3 workers asks for .* and 1 GPU, .* room for 2 .*scaling\.gpus"):
        train_runs.check_room(WorkersConfig(workers=3, gpus=1))

    def check(**settings: int) -> None:
        shard_pool.check_room(ShardedPass("", [], "", "", SignalsConfig(**settings), None))

    check(actors=100)  # a pool makes do with fewer
    with pytest.raises(UserError, match=r"an actor of the pass asks for 7\.2 CPU, .*signals\.tensor_parallel"):
        check(tensor_parallel=8)
    with pytest.raises(UserError, match=r"asks for 2\.7 CPU and 3 GPU, but .* room for 0"):
        check(tensor_parallel=3, gpus=1)
