"""How many trials run at a time."""

import os
from typing import Any

import pytest
import ray

from ray_jobs.sweeps.room import count_places, share
from recsys.config import from_dict
from recsys.errors import UserError
from recsys.tuning.config import SweepConfig

Node = dict[str, float]


def config(**values: Any) -> SweepConfig:
    space = {"student": "s", "parameters": {"model.blocks": {"kind": "int", "low": 1, "high": 2}}}
    return from_dict(SweepConfig, {**space, **values})


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes a Ray of nodes somewhere."""
    monkeypatch.setenv("RAY_ADDRESS", "somewhere:6379")
    monkeypatch.delenv("RECSYS_AUTOSCALING", raising=False)

    def make(*nodes: Node) -> None:
        known = [{"Alive": True, "Resources": node} for node in nodes]
        lost = {"Alive": False, "Resources": {"CPU": 100.0, "GPU": 100.0}}
        monkeypatch.setattr(ray, "nodes", lambda: [lost, *known])

    return make


@pytest.mark.parametrize(
    ("nodes", "asked", "expected"),
    [
        ([{"CPU": 8.0}], {}, 8),
        ([{"CPU": 8.0}], {"cpus": 0.3}, 26),
        ([{"CPU": 8.0}], {"concurrent": 3}, 3),
        ([{"CPU": 64.0, "GPU": 2.0}], {"gpus": 0.25}, 8),
        ([{"CPU": 4.0, "GPU": 2.0}], {"gpus": 0.25, "cpus": 2}, 2),
        ([{"CPU": 0.3}], {"cpus": 0.1}, 3),
        ([{"CPU": 64.0, "GPU": 8.0}], {"gpus": 1, "workers": 3}, 2),
        ([{"CPU": 9.0}], {"cpus": 2, "workers": 2}, 2),
        ([{"CPU": 3.0}, {"CPU": 3.0}], {"cpus": 2}, 2),
        ([{"CPU": 3.0}] * 4, {"cpus": 2, "workers": 2}, 2),
        ([{"CPU": 16.0}, {"CPU": 2.0, "GPU": 4.0}], {"gpus": 1}, 2),
        ([{"memory": 1.0}, {"CPU": 2.0}], {}, 2),
    ],
)
def test_as_many_as_the_cluster_has_room_for(
    monkeypatch: pytest.MonkeyPatch, cluster: Any, nodes: list[Node], asked: dict[str, Any], expected: int
) -> None:
    cluster(*nodes)
    assert count_places(config(**asked)) == expected
    monkeypatch.delenv("RAY_ADDRESS")
    cores = len(os.sched_getaffinity(0))
    at_home = count_places(config(**asked))
    assert at_home == min(expected, max(1, int(cores / (asked.get("cpus", 1) * asked.get("workers", 1))))), (
        "one a core on a Ray of its own"
    )


def test_no_room_is_said(monkeypatch: pytest.MonkeyPatch, cluster: Any) -> None:
    cluster({"CPU": 4.0})
    with pytest.raises(UserError, match=r"asks for 1 CPU and 1 GPU on one node, but .*: 4 CPU and 0 GPU; lower cpus"):
        count_places(config(gpus=1))
    with pytest.raises(UserError, match=r"has 6 workers that each ask for 1 CPU and 0 GPU .*; lower workers, cpus"):
        count_places(config(workers=6))
    cluster({"CPU": 2.0}, {"CPU": 2.0})
    with pytest.raises(UserError, match=r"4 CPU .* on one node, but .* have: 2 CPU and 0 GPU; lower"):
        count_places(config(cpus=4))


def test_a_cluster_that_grows_has_room(monkeypatch: pytest.MonkeyPatch, cluster: Any) -> None:
    cluster({"CPU": 2.0})
    monkeypatch.setenv("RECSYS_AUTOSCALING", "1")
    assert [count_places(config(**asked)) for asked in ({}, {"gpus": 1}, {"gpus": 1, "concurrent": 16})] == [2, 1, 16]


@pytest.mark.parametrize(
    ("nodes", "asked", "concurrent", "expected"),
    [
        ([{"CPU": 4.0}], {}, 2, 2),
        ([{"CPU": 2.0}], {}, 3, 1),
        ([{"CPU": 2.0}], {"cpus": 0.5}, 3, 0.6666),
        ([{"CPU": 4.0}] * 4, {}, 2, 4),
        ([{"CPU": 64.0}, {"CPU": 8.0, "GPU": 4.0}], {"gpus": 1}, 2, 4),
        ([], {"cpus": 2}, 2, 2),
    ],
)
def test_none_of_a_population_asks_for_more_than_a_node_has(
    cluster: Any, nodes: list[Node], asked: dict[str, Any], concurrent: int, expected: float
) -> None:
    cluster(*nodes)
    assert share(config(**asked), concurrent) == pytest.approx(expected)
