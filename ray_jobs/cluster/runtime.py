"""Joining a Ray cluster: the one a job was submitted to, or an embedded local one."""

import logging
import os
import secrets
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

from ray_jobs.address import cluster_address
from recsys.errors import UserError


def connect() -> None:
    """Join the cluster of `RAY_ADDRESS` (set inside a submitted job), else start an embedded local Ray.

    The embedded Ray declares twice as many logical cores as the machine has, so that readers never starve while
    actors compute; threads are pinned by what each actor asks for. Ray's own default is token authentication; the
    token given here never leaves this process tree.

    Raises:
        UserError: `RAY_ADDRESS` is no address of a cluster that can be joined.
    """
    if ray.is_initialized():
        return
    if address := cluster_address():
        # Ray Train's own helpers search the machine for a Ray where this is unset, and may find another one.
        environment = {"env_vars": {"RAY_ADDRESS": address}}
        with own_signals():
            try:
                ray.init(address, runtime_env=environment, logging_level=logging.WARNING)
            except (ValueError, OSError, RuntimeError) as error:  # no cluster, another version of Ray, a wrong token
                reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
                raise UserError(f"the Ray cluster of RAY_ADDRESS={address} cannot be joined: {reason}") from None
        return
    os.environ.pop("RAY_ADDRESS", None)  # "local": from here on it says that there is a cluster
    if os.environ.get("RAY_AUTH_MODE") != "disabled":
        # The mode itself was read when Ray was imported; a token of our own keeps Ray from writing one to the home.
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
    cores = len(os.sched_getaffinity(0))
    # Ray Train asks the dashboard how its controller is, and says so every second where there is none.
    with own_signals():
        ray.init(
            "local",
            num_cpus=2 * cores,
            include_dashboard=True,
            dashboard_host="127.0.0.1",
            logging_level=logging.WARNING,
        )


@contextmanager
def own_signals() -> Iterator[None]:
    """Keep what this process does on Ctrl-C and SIGTERM: Ray puts handlers of its own there and leaves them."""
    numbers = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def get_result(references: Any) -> Any:
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
