"""The whole path on this machine, through a Ray of its own: what `make demo` and `make serve` run.

    python -m ray_jobs.demo                             MovieLens 100K, fetched
    python -m ray_jobs.demo --data fixture              a tiny data set, under a minute
    python -m ray_jobs.demo --data /data/ml-100k        your own copy of MovieLens 100K
    python -m ray_jobs.demo --serve                     serve what an earlier demo made, until Ctrl-C

It starts a local Ray (`ray_jobs.local_ray`), submits `python -m ray_jobs.pipeline` as one job through Ray's job API,
streams its log, ends with its exit code, and leaves no process or temporary file behind. On a cluster the same job is
submitted by `ray job submit` (README). Killed at any moment and started again, it continues.
"""

import argparse
import contextlib
import logging
import re
import shlex
import signal
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, TypeVar

from ray_jobs import cli
from ray_jobs.local_ray import LocalRay, local_ray
from ray_jobs.settings import Settings
from recsys.errors import UserError

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

T = TypeVar("T")

PROJECT = Path(__file__).resolve().parents[1]
CONFIGS = PROJECT / "ray_jobs" / "configs"
FIXTURE = PROJECT / "tests" / "fixtures" / "ml-tiny"
EXCLUDES = ["/runs", "/build", "/docs", "/.mypy_cache", "/.ruff_cache", "/.pytest_cache", "*.egg-info", "__pycache__"]
_AGENT_SECONDS = 120
_HEARTBEAT_SECONDS = 10
# What Ray says of its own workings on every run, and that no reader can act on.
_CHATTER = re.compile(
    r"has constructor arguments in the object store"
    r"|Found multiple active Ray instances"
    r"|Runtime env is setting up|Running entrypoint for job"
    r"|Proxy actor re(adiness check|ported not ready)|ServeController.graceful_shutdown failed"
)


def main(arguments: list[str] | None = None) -> None:
    """Read the command line, run, exit with the job's exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", metavar="PATH", help="folder of MovieLens 100K, or `fixture`")
    parser.add_argument("--config", metavar="FILE", help="in place of the demo's own")
    parser.add_argument("--storage", metavar="ROOT", help="absolute path or URI under which everything is kept")
    parser.add_argument("--force", action="store_true", help="redo what is already there")
    parser.add_argument("--serve", action="store_true", help="serve until Ctrl-C")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    args = parser.parse_intermixed_args(arguments)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    sys.exit(cli.guarded(lambda: run(args)))


def run(args: argparse.Namespace) -> int:
    """Run the demo.

    Returns:
        The exit code of the job.
    """
    cli.refuse_empty(args)
    arguments = job_arguments(args)
    # A wrong key or value is told before anything is started.
    settings = cli.load_settings(arguments)
    cli.check_storage(settings.layout.storage_root, writes=not args.serve)
    if args.serve:
        _require_models(settings)
    started = time.monotonic()
    print("starting a local Ray", flush=True)
    with local_ray() as ray:
        print(f"local Ray is up after {time.monotonic() - started:.0f} s", flush=True)
        job = "serve" if args.serve else "pipeline"
        try:
            entrypoint = shlex.join([sys.executable, "-u", "-m", f"ray_jobs.{job}", *arguments])
            code = submit(ray, entrypoint, heartbeat=not args.serve)
        except KeyboardInterrupt:
            if not args.serve:
                raise
            print("\nstopped", flush=True)
            return 0
    if not args.serve:
        print(f"{'done' if code == 0 else 'ended'} after {time.monotonic() - started:.0f} s", flush=True)
    return code


def job_arguments(args: argparse.Namespace) -> list[str]:
    """The job's command line: every path absolute, because a job's own folder is not the user's."""
    fixture = args.data == "fixture"
    config = args.config or CONFIGS / ("fixture.yaml" if fixture else "demo.yaml")
    overrides = list(args.overrides)
    if fixture:
        overrides.append(f"data.path={FIXTURE}")
    elif args.data:
        overrides.append(f"data.path={Path(args.data).expanduser().resolve()}")
    settings = cli.load_settings(["--config", str(config), *(["--storage", args.storage] if args.storage else [])])
    return [
        *("--config", str(Path(config).resolve())),
        *("--storage", settings.layout.storage_root),
        *(["--force"] if args.force else []),
        *overrides,
    ]


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
    client = patiently(lambda: JobSubmissionClient(ray.address, headers=ray.headers))
    job = _submit_when_ready(client, entrypoint)
    try:
        _stream(client, job, heartbeat)
    except BaseException:
        # The job hears of it (a server takes its application down); Ray's end is not waited for any longer than that.
        with contextlib.suppress(OSError, RuntimeError):
            client.stop_job(job)
        raise
    info = patiently(lambda: client.get_job_info(job))
    if info.driver_exit_code is None:
        print(f"error: the job did not run: {' '.join((info.message or 'no reason given').split())}", file=sys.stderr)
        return 1
    return int(info.driver_exit_code)


def _submit_when_ready(client: "JobSubmissionClient", entrypoint: str) -> str:
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
    while (found := patiently(attempt)) is None:
        time.sleep(0.2)
    return found


def patiently(ask: Callable[[], T], seconds: float = _AGENT_SECONDS) -> T:
    """The answer of Ray's job server, which on a busy machine drops a connection now and then.

    Raises:
        UserError: it has not answered for so many seconds.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            return ask()
        except OSError as error:  # as the errors of requests are
            if time.monotonic() > deadline:
                raise UserError(f"Ray's job server does not answer ({type(error).__name__}); run it again") from None
            time.sleep(0.2)


def _stream(client: "JobSubmissionClient", job: str, heartbeat: bool) -> None:
    """Print the log as it grows. (Ray's own tail waits seconds for its websocket after the job has ended.)"""
    started = spoke = time.monotonic()
    shown = 0
    ended = False
    while not ended:
        ended = patiently(lambda: client.get_job_status(job).is_terminal())
        log = patiently(lambda: client.get_job_logs(job))
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


def _require_models(settings: Settings) -> None:
    from ray_jobs.serve import check

    check(settings)


def _leave(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    # Only the first one raises: the end must not be interrupted.
    signal.signal(number, signal.SIG_IGN)
    raise SystemExit(128 + number)


if __name__ == "__main__":
    main()
