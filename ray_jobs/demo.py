"""The whole path on this machine, through a Ray of its own: what `make demo` and `make serve` run.

    python -m ray_jobs.demo                             MovieLens 100K, fetched
    python -m ray_jobs.demo --data fixture              a tiny data set, under a minute
    python -m ray_jobs.demo --data /data/ml-100k        your own copy of MovieLens 100K
    python -m ray_jobs.demo --serve                     serve what an earlier demo made, until Ctrl-C

It starts a local Ray (`ray_jobs.cluster.local_ray`), submits `python -m ray_jobs.pipeline` through Ray's job API,
streams its log, ends with its exit code, and leaves no process or temporary file behind. On a cluster the same job is
submitted by `ray job submit` (README). Killed at any moment and started again, it continues.
"""

import argparse
import shlex
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, TypeVar

from ray_jobs import cli
from ray_jobs.cluster.local_ray import local_ray
from ray_jobs.cluster.submission import submit
from recsys.settings import Settings

if TYPE_CHECKING:
    pass

T = TypeVar("T")

PROJECT = Path(__file__).resolve().parents[1]
CONFIGS = PROJECT / "ray_jobs" / "configs"
FIXTURE = PROJECT / "tests" / "fixtures" / "ml-tiny"


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


def _require_models(settings: Settings) -> None:
    from ray_jobs.serving.application import check

    check(settings)


def _leave(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    # Only the first one raises: the end must not be interrupted.
    signal.signal(number, signal.SIG_IGN)
    raise SystemExit(128 + number)


if __name__ == "__main__":
    main()
