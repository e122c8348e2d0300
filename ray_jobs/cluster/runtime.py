"""Joining a Ray cluster: the one a job was submitted to, or an embedded local one."""

import logging
import os
import secrets
from typing import Any

import ray

from recsys.errors import UserError


def connect() -> None:
    """Join the cluster of `RAY_ADDRESS` (set inside a submitted job), else start an embedded local Ray.

    The embedded Ray declares twice as many logical cores as the machine has, so that readers never starve while
    actors compute; threads are pinned by what each actor asks for. Ray's own default is token authentication; the
    token given here never leaves this process tree.
    """
    if ray.is_initialized():
        return
    if address := os.environ.get("RAY_ADDRESS"):
        # Ray Train's own helpers search the machine for a Ray where this is unset, and may find another one.
        ray.init(runtime_env={"env_vars": {"RAY_ADDRESS": address}}, logging_level=logging.WARNING)
        return
    if os.environ.get("RAY_AUTH_MODE") != "disabled":
        # The mode itself was read when Ray was imported; a token of our own keeps Ray from writing one to the home.
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
    cores = len(os.sched_getaffinity(0))
    # Ray Train asks the dashboard how its controller is, and says so every second where there is none.
    ray.init(
        num_cpus=2 * cores,
        include_dashboard=True,
        dashboard_host="127.0.0.1",
        logging_level=logging.WARNING,
    )


def result(references: Any) -> Any:
    """`ray.get` of one reference or a list, a user's mistake in a task being the same mistake here."""
    try:
        return ray.get(references)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise UserError(str(error.cause)) from None
        raise


def nodes() -> list[dict[str, float]]:
    """What each node of the cluster has."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def places(node: dict[str, float], cpus: float, gpus: float) -> int:
    """How many processes fit a node."""
    return min(int(node.get(name, 0) / each + 1e-6) for name, each in (("CPU", cpus), ("GPU", gpus)) if each)


def check_room(what: str, *, cpus: float, gpus: float, lower: str, count: int = 1) -> None:
    """Refuse what this cluster can never give, which Ray itself would wait for in silence.

    Args:
        what: who asks, as the subject of a sentence; each of `count`, all at the same time, needs a place on one node.
        lower: the settings that say how much is asked for.

    Raises:
        UserError: there is no room, not even with nothing else running.
    """
    if os.environ.get("RECSYS_AUTOSCALING") == "1":
        return
    has = nodes()
    room = sum(places(node, cpus, gpus) for node in has)
    if room >= count:
        return
    wanted = " and ".join(f"{each:g} {name}" for name, each in (("CPU", cpus), ("GPU", gpus)) if each)
    sizes = sorted({(node.get("GPU", 0), node.get("CPU", 0)) for node in has}, reverse=True)[:3]
    have = "; ".join(f"{cpu:g} CPU and {gpu:g} GPU" for gpu, cpu in sizes)
    raise UserError(
        f"{what} asks for {wanted}, but the cluster has room for {room} (the largest nodes: {have}); lower {lower} "
        "(on a cluster that grows by itself set RECSYS_AUTOSCALING=1)"
    )
