"""cluster.yaml is accepted by Ray's launcher, and its nodes have room for what the shipped configurations ask for."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from recsys.config import load_config
from recsys.settings import Settings
from tests.integration.room import Need, needs, unplaced

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted((ROOT / "ray_jobs" / "configs").glob("*.yaml"))


@pytest.fixture(scope="module")
def cluster() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "cluster.yaml").read_text())


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
        assert "--metrics-export-port=8080" in start
    assert "~/.ray/auth_token" in cluster["file_mounts"]
