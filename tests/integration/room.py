"""Whether a cluster's nodes have room for what a configuration asks for."""

import math
from dataclasses import dataclass
from typing import Any

from recsys.settings import Settings


@dataclass(frozen=True)
class Need:
    """`count` processes at the same time, each on one node."""

    what: str
    count: int
    cpus: float
    gpus: float


def needs(settings: Settings) -> list[list[Need]]:
    """What must fit together, step by step."""

    def each(what: str, count: int, asked: Any) -> Need:
        return Need(what, count, asked.cpus, asked.gpus)

    teacher = settings.teacher.scaling
    return [
        [Need("rules", 1, settings.rules.cpus, 0)],
        [each("teacher.scaling", teacher.workers, teacher)],
        [each("signals", settings.signals.actors, settings.signals)],
        *([each(f"students.{name}", s.scaling.workers, s.scaling)] for name, s in settings.students.items()),
        [each("evaluation", 1, settings.evaluation)],
        [each("depth.scaling", settings.depth.scaling.workers, settings.depth.scaling)],
        [each("recommendations", settings.recommendations.actors, settings.recommendations)],
        serving(settings),
    ]


def serving(settings: Settings) -> list[Need]:
    """The replicas of the endpoint."""
    replicas = {
        "serving.teacher_replicas": settings.serving.teacher_replicas,
        "serving.student_replicas": settings.serving.student_replicas,
        **{
            f"serving.{name}": arm.replicas for name, arm in settings.serving.further_arms.items() if not arm.in_ingress
        },
    }
    return [Need(what, asked.count, asked.cpus, asked.gpus) for what, asked in replicas.items()]


def capacity(node: dict[str, Any], need: Need) -> int:
    """How many such processes a node holds."""
    have = node["resources"]
    room = math.floor(have.get("CPU", 0) / need.cpus)
    return min(room, math.floor(have.get("GPU", 0) / need.gpus)) if need.gpus else room


def unplaced(together: list[Need], node_types: dict[str, dict[str, Any]]) -> list[str]:
    """What finds no room, each need taking whole nodes, the scarcest kind (GPU) first for those that need it.

    Args:
        node_types: name → `resources` (CPU, GPU) and `max_workers`, how many such nodes there may be.
    """
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
