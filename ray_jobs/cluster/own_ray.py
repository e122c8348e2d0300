"""A job on a local Ray that is there for it alone."""

import shlex
import sys
import time
from collections.abc import Sequence

from ray_jobs.cluster.local_ray import local_ray
from ray_jobs.cluster.submission import submit


def run_alone(job: str, arguments: Sequence[str], *, until_stopped: bool = False) -> int:
    """Start a local Ray, run a job on it with its log shown, end both.

    Args:
        job: a module of `ray_jobs`.
        until_stopped: it has no end of its own; Ctrl-C is one, and no fault.

    Returns:
        Its exit code.
    """
    started = time.monotonic()
    print("starting a local Ray", flush=True)
    with local_ray() as ray:
        print(f"local Ray is up after {time.monotonic() - started:.0f} s", flush=True)
        entrypoint = shlex.join([sys.executable, "-u", "-m", f"ray_jobs.{job}", *arguments])
        try:
            code = submit(ray, entrypoint, heartbeat=not until_stopped)
        except KeyboardInterrupt:
            if not until_stopped:
                raise
            print("\nstopped", flush=True)
            return 0
    if not until_stopped:
        print(f"{'done' if code == 0 else 'ended'} after {time.monotonic() - started:.0f} s", flush=True)
    return code
