"""cluster.yaml is accepted by Ray's launcher, and its nodes have room for what the shipped configurations ask for."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from recsys.config import load_config
from recsys.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted((ROOT / "ray_jobs" / "configs").glob("*.yaml"))


@dataclass(frozen=True)
class Need:
    """`count` processes at the same time, each on one node."""

    what: str
    count: int
    cpus: float
    gpus: float


@pytest.fixture(scope="module")
def cluster() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "cluster.yaml").read_text())


def needs(settings: Settings) -> list[list[Need]]:
    """What must fit together, step by step."""

    def each(what: str, count: int, asked: Any) -> Need:
        return Need(what, count, asked.cpus, asked.gpus)

    teacher, serving = settings.teacher.scaling, settings.serving
    return [
        [each("teacher.scaling", teacher.workers, teacher)],
        [each("signals", settings.signals.actors, settings.signals)],
        *([each(f"students.{name}", s.scaling.workers, s.scaling)] for name, s in settings.students.items()),
        [each("evaluation", 1, settings.evaluation)],
        [
            each("serving.teacher_replicas", serving.teacher_replicas.count, serving.teacher_replicas),
            each("serving.student_replicas", serving.student_replicas.count, serving.student_replicas),
        ],
    ]


def capacity(node: dict[str, Any], need: Need) -> int:
    """How many such processes a node holds."""
    have = node["resources"]
    room = math.floor(have.get("CPU", 0) / need.cpus)
    return min(room, math.floor(have.get("GPU", 0) / need.gpus)) if need.gpus else room


def unplaced(together: list[Need], node_types: dict[str, dict[str, Any]]) -> list[str]:
    """What finds no room, each need taking whole nodes, the scarcest kind (GPU) first for those that need it."""
    free = {name: node.get("max_workers", 1) for name, node in node_types.items()}
    missing = []
    for need in sorted(together, key=lambda n: -n.gpus):
        left = need.count
        # Nodes without GPUs first, so that GPU nodes stay free for those that need them.
        for name, node in sorted(node_types.items(), key=lambda item: item[1]["resources"].get("GPU", 0)):
            while left > 0 and free[name] > 0 and capacity(node, need) > 0:
                free[name] -= 1
                left -= capacity(node, need)
        if left > 0:
            missing.append(f"{need.what}: {left} of {need.count} find no node")
    return missing


def test_the_launcher_accepts_it(cluster: dict[str, Any]) -> None:
    validate_config(prepare_config(cluster))


def test_the_launcher_would_refuse_an_unknown_key(cluster: dict[str, Any]) -> None:
    with pytest.raises(Exception, match="max_wrokers"):
        validate_config(prepare_config({**cluster, "max_wrokers": 3}))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_configuration_fits(cluster: dict[str, Any], config: Path) -> None:
    settings = load_config(Settings, config)
    for together in needs(settings):
        assert unplaced(together, cluster["available_node_types"]) == []


def test_what_is_too_big_is_found(cluster: dict[str, Any]) -> None:
    assert unplaced([Need("teacher", 1, 8, 5)], cluster["available_node_types"])
    assert unplaced([Need("student", 1, 64, 0)], cluster["available_node_types"])
    assert unplaced([Need("teacher", 17, 1, 1)], cluster["available_node_types"])


def test_autoscaling_leaves_room_for_all_node_types(cluster: dict[str, Any]) -> None:
    types = cluster["available_node_types"]
    assert sum(node.get("max_workers", 0) for node in types.values()) <= cluster["max_workers"]


def test_every_node_shows_the_token_and_knows_the_storage(cluster: dict[str, Any]) -> None:
    storage = load_config(Settings, ROOT / "ray_jobs" / "configs" / "gpu.yaml").storage
    for role in ("head", "worker"):
        start = cluster[f"{role}_start_ray_commands"][-1]
        assert "RAY_AUTH_MODE=token" in start
        assert f"RECSYS_STORAGE={storage}" in start
    assert "~/.ray/auth_token" in cluster["file_mounts"]
