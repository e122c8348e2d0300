"""A private Ray on this machine, with a job server, that leaves nothing behind.

It runs on free ports with a short temporary folder, so that several may live side by side. All of its ports listen on
loopback, but for one of each replica of Ray Serve; every one of them needs a token from a private file.

Every process below it inherits a marker in its environment. By that marker, and by nothing else, its processes are
found and ended: Ray's workers leave the process group they were started in. A folder whose owner was killed is found
by the pid file in it, and its processes are ended by the next start.
"""

import contextlib
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ray_jobs.address import LOOPBACK
from ray_jobs.cli import QUIET
from recsys.environment import start_time
from recsys.errors import UserError
from recsys.ports import free_ports

MARKER = "RECSYS_LOCAL_RAY"
_PREFIX = "recsys-ray-"
_PID_FILE = "owner.json"
_TOKEN_FILE = "token"
_LOG_FILE = "start.log"
_COLOUR = re.compile(r"\x1b\[\d*m")
LONGEST_ROOT = 24
_READY_SECONDS = 120
_KIND_SECONDS = 0.5
_ENDING_SECONDS = 30


@dataclass(frozen=True)
class LocalRay:
    """A running local Ray.

    Attributes:
        address: URL of the job server.
        folder: its private temporary folder, gone after the block.
        process: what runs it, and ends with the first part of Ray that does.
    """

    address: str
    folder: Path
    process: subprocess.Popen[bytes]

    @property
    def headers(self) -> dict[str, str]:
        """What a job client must show."""
        return {"Authorization": f"Bearer {(self.folder / _TOKEN_FILE).read_text()}"}

    @property
    def end(self) -> str | None:
        """What it said when it ended by itself: the parts that ended first, else its last line; None while it runs."""
        if self.process.poll() is None:
            return None
        said = _COLOUR.sub("", (self.folder / _LOG_FILE).read_text(errors="replace")).splitlines()
        parts = [line.rpartition("-- ")[2] for line in said if "[exit code=" in line]
        return ", ".join(parts) or next((line.strip() for line in reversed(said) if line.strip()), "it said nothing")

    @property
    def environment(self) -> dict[str, str]:
        """What `ray job …` and drivers need to find it and be let in."""
        return {
            "RAY_ADDRESS": self.address,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.folder / _TOKEN_FILE),
        }


@contextlib.contextmanager
def local_ray(num_cpus: int | None = None, environment: dict[str, str] | None = None) -> Iterator[LocalRay]:
    """Start a Ray, and end it with everything that ran on it when the block is left, however it is left.

    Args:
        num_cpus: logical cores; default twice those of the machine, so that readers never starve beside actors.
        environment: further variables that its processes see.

    Raises:
        UserError: it does not start.
    """
    for line in end_abandoned():
        print(line, flush=True)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=_root()))  # private: 0700
    marker = secrets.token_hex(16)
    try:
        (folder / _PID_FILE).write_text(
            json.dumps({"pid": os.getpid(), "start": start_time(os.getpid()), "marker": marker})
        )
        yield _start(folder, marker, num_cpus or 2 * len(os.sched_getaffinity(0)), environment or {})
    finally:
        # A second Ctrl-C must not leave processes behind; ending takes a few seconds at most.
        previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
        end_processes(marker)
        shutil.rmtree(folder, ignore_errors=True)
        signal.signal(signal.SIGINT, previous)


def end_abandoned() -> list[str]:
    """End the Rays of owners that were killed.

    Returns:
        A line for each.
    """
    lines = []
    for file in _root().glob(f"{_PREFIX}*/{_PID_FILE}"):
        try:
            if file.parent.is_symlink() or file.stat().st_uid != os.getuid():
                continue
            owner = json.loads(file.read_text())
            pid, start, marker = int(owner["pid"]), int(owner["start"]), str(owner["marker"])
        except (OSError, ValueError, KeyError):
            continue  # somebody else's, or being written
        if start_time(pid) == start:
            continue  # its owner is alive
        ended = end_processes(marker)
        shutil.rmtree(file.parent, ignore_errors=True)
        lines.append(f"ended a Ray that a killed run left behind ({ended} processes)")
    return lines


def end_processes(marker: str) -> int:
    """End every process that carries the marker: kindly, soon by force.

    Returns:
        How many there were.
    """
    seen: set[int] = set()
    begun = time.monotonic()
    missed = 0
    # What cannot be killed (it hangs in the kernel) is not waited for.
    while missed < 2 and time.monotonic() - begun < _ENDING_SECONDS:
        pids = _find_marked(marker)
        missed = 0 if pids else missed + 1  # one that is just starting its program shows no environment
        by_force = time.monotonic() - begun > _KIND_SECONDS
        for pid in pids:
            if by_force or pid not in seen:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL if by_force else signal.SIGTERM)
        seen |= pids
        time.sleep(0.05)
    return len(seen)


def _root() -> Path:
    """Where the folders lie: a short path, because Ray puts Unix sockets, of at most 107 characters, below it."""
    usual = Path(tempfile.gettempdir())
    return usual if len(str(usual)) <= LONGEST_ROOT else Path("/tmp")


def _start(folder: Path, marker: str, num_cpus: int, environment: dict[str, str]) -> LocalRay:
    token = folder / _TOKEN_FILE
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    ports = free_ports(5)
    dashboard = ports[1]
    options = {
        "port": ports[0],
        "dashboard-host": "127.0.0.1",
        "dashboard-port": dashboard,
        "dashboard-agent-listen-port": ports[2],
        "ray-client-server-port": ports[3],
        "metrics-export-port": ports[4],
        "num-cpus": num_cpus,
        "object-store-memory": 500_000_000,
        "temp-dir": folder / "r",  # Ray opens its folder to everybody; the one around it stays private
    }
    # What the user's shell says of another cluster is not meant.
    shell = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "RAY_AUTH_TOKEN")}
    own = {
        MARKER: marker,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        **LOOPBACK,
        "TMPDIR": str(folder),
        "RAY_COLOR_PREFIX": "0",
        # Ray's default of 15 would make every latency measured here depend on what else the machine does.
        "RAY_worker_niceness": "0",
        # Ray Train looks after its workers every 2 s by default, and waits as long at every step of a start.
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
        # `python` in a job's command line is this one.
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
    }
    with (folder / _LOG_FILE).open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"]
            + [f"--{name}={value}" for name, value in options.items()],
            env={**shell, **QUIET, **environment, **own},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    ray = LocalRay(f"http://127.0.0.1:{dashboard}", folder, process)
    deadline = time.monotonic() + _READY_SECONDS
    while not _answers(ray):
        if (end := ray.end) is not None or time.monotonic() > deadline:
            raise UserError(f"the local Ray did not start: {end or f'no answer for {_READY_SECONDS} s'}")
        time.sleep(0.1)
    return ray


def _answers(ray: LocalRay) -> bool:
    request = urllib.request.Request(f"{ray.address}/api/version", headers=ray.headers)
    # A proxy of the environment has no business with loopback.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=2) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _find_marked(marker: str) -> set[int]:
    wanted = f"{MARKER}={marker}".encode()
    found = set()
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and int(process.name) != os.getpid():
            with contextlib.suppress(OSError):  # it ended meanwhile, or belongs to another user
                if wanted in (process / "environ").read_bytes().split(b"\0"):
                    found.add(int(process.name))
    return found
