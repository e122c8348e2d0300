"""A job submitted to a local Ray, its log told as it grows."""

import contextlib
import logging
import re
import sys
import time
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ray_jobs.cli import CHATTER
from ray_jobs.cluster.local_ray import LocalRay
from recsys.errors import UserError

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

T = TypeVar("T")

PROJECT = Path(__file__).resolve().parents[2]
EXCLUDES = ["/runs", "/build", "/docs", "/.mypy_cache", "/.ruff_cache", "/.pytest_cache", "*.egg-info", "__pycache__"]
_AGENT_SECONDS = 120
_HEARTBEAT_SECONDS = 10
_CHATTER = re.compile(CHATTER)


def submit(ray: LocalRay, entrypoint: str, *, heartbeat: bool = False) -> int:
    """Submit a job, stream its log until it ends.

    Args:
        heartbeat: say how long it has run whenever it is silent for a while.

    Returns:
        Its exit code; 1 where it never ran.
    """
    from ray.job_submission import JobSubmissionClient

    for noisy in ("ray.dashboard.modules.dashboard_sdk", "ray._private.runtime_env"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    ask = partial(ask_patiently, ray=ray)
    client = ask(lambda: JobSubmissionClient(ray.address, headers=ray.headers))
    job = _submit_when_ready(client, entrypoint, ask)
    try:
        _stream(client, job, heartbeat, ask)
    except BaseException:
        # The job hears of it (a server takes its application down); Ray's end is not waited for any longer than that.
        with contextlib.suppress(OSError, RuntimeError):
            client.stop_job(job)
        raise
    info = ask(lambda: client.get_job_info(job))
    if info.driver_exit_code is None:
        print(f"error: the job did not run: {' '.join((info.message or 'no reason given').split())}", file=sys.stderr)
        return 1
    return int(info.driver_exit_code)


def _submit_when_ready(client: "JobSubmissionClient", entrypoint: str, ask: Callable[..., Any]) -> str:
    job = f"recsys-{uuid.uuid4().hex[:16]}"  # so that it is there once, however often it is submitted

    def attempt() -> str | None:
        try:
            return client.submit_job(
                entrypoint=entrypoint,
                submission_id=job,
                runtime_env={"working_dir": str(PROJECT), "excludes": EXCLUDES},
            )
        except RuntimeError as error:
            if f"{job} already exists" in str(error):
                return job
            # The job server answers a little before the agent that starts drivers.
            if "No available agent" not in str(error) or time.monotonic() > deadline:
                raise UserError(f"the job cannot be submitted: {str(error).strip().splitlines()[0]}") from None
            return None

    deadline = time.monotonic() + _AGENT_SECONDS
    while (found := ask(attempt)) is None:
        time.sleep(0.2)
    return str(found)


def ask_patiently(ask: Callable[[], T], *, ray: LocalRay | None = None, seconds: float = _AGENT_SECONDS) -> T:
    """The answer of Ray's job server, which on a busy machine drops a connection now and then.

    Raises:
        UserError: it has not answered for that long, or its Ray has ended.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            return ask()
        except OSError as error:  # as the errors of requests are
            if ray is not None and (end := ray.end) is not None:
                raise UserError(f"the local Ray has ended by itself ({end}); run it again") from None
            if time.monotonic() > deadline:
                raise UserError(f"Ray's job server does not answer ({type(error).__name__}); run it again") from None
            time.sleep(0.2)


def _stream(client: "JobSubmissionClient", job: str, heartbeat: bool, ask: Callable[..., Any]) -> None:
    """Print the log as it grows. (Ray's own tail waits seconds for its websocket after the job has ended.)"""
    started = spoke = time.monotonic()
    shown = 0
    ended = False
    while not ended:
        ended = ask(lambda: client.get_job_status(job).is_terminal())
        log = ask(lambda: client.get_job_logs(job))
        # Whole lines only, so that chatter is known as such; the last one may lack its end.
        whole = len(log) if ended else log.rfind("\n") + 1
        lines = [line for line in log[shown:whole].splitlines() if not _CHATTER.search(line)]
        now = time.monotonic()
        if heartbeat and not lines and not ended and now - spoke > _HEARTBEAT_SECONDS:
            lines = [f"  … at work, {now - started:.0f} s"]
        for line in lines:
            print(line)
            spoke = now
        sys.stdout.flush()
        shown = max(shown, whole)
        if not ended:
            time.sleep(0.3)
