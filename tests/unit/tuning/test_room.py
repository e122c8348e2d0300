"""How many trials run at a time."""

import os

import pytest
import ray

from ray_jobs.trials import room
from recsys.config import from_dict
from recsys.errors import UserError
from recsys.tuning.config import SweepConfig


@pytest.mark.parametrize(
    ("cluster", "asked", "expected"),
    [
        ({"CPU": 8.0}, {}, 8),
        ({"CPU": 8.0}, {"cpus": 0.3}, 26),
        ({"CPU": 8.0}, {"concurrent": 3}, 3),
        ({"CPU": 64.0, "GPU": 2.0}, {"gpus": 0.25}, 8),
        ({"CPU": 4.0, "GPU": 2.0}, {"gpus": 0.25, "cpus": 2}, 2),
        ({"CPU": 0.3}, {"cpus": 0.1}, 3),
        ({"CPU": 64.0, "GPU": 8.0}, {"gpus": 1, "workers": 3}, 2),
        ({"CPU": 9.0}, {"cpus": 2, "workers": 2}, 2),
    ],
)
def test_as_many_as_the_cluster_has_room_for(
    monkeypatch: pytest.MonkeyPatch, cluster: dict[str, float], asked: dict[str, float], expected: int
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "somewhere:6379")
    monkeypatch.setattr(ray, "cluster_resources", lambda: cluster)
    space = {"student": "s", "parameters": {"model.blocks": {"kind": "int", "low": 1, "high": 2}}}
    assert room(from_dict(SweepConfig, {**space, **asked})) == expected
    monkeypatch.delenv("RAY_ADDRESS")
    cores = len(os.sched_getaffinity(0))
    at_home = room(from_dict(SweepConfig, {**space, **asked}))
    assert at_home == min(expected, max(1, int(cores / (asked.get("cpus", 1) * asked.get("workers", 1))))), (
        "one a core on a Ray of its own"
    )


def test_no_room_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 4.0})
    space = {"student": "s", "parameters": {"model.blocks": {"kind": "int", "low": 1, "high": 2}}, "gpus": 1}
    with pytest.raises(UserError, match="asks for 1 CPU and 1 GPU, but the cluster has 4 CPU and 0 GPU; lower cpus"):
        room(from_dict(SweepConfig, space))
    with pytest.raises(UserError, match=r"asks for 6 CPU and 0 GPU, but the cluster has 4 CPU .*; lower workers, cpus"):
        room(from_dict(SweepConfig, {**space, "gpus": 0, "workers": 6}))
