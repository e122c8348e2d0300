"""Joining a Ray cluster: the one a job was submitted to, or an embedded local one."""

import logging
import os
import secrets

import ray


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
