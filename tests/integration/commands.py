"""Commands as a user starts them."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recsys.ports import free_port

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Command:
    """A command in a session of its own, its output read as it comes."""

    process: subprocess.Popen[str]
    output: str = ""

    def wait_for(self, text: str, seconds: float = 600) -> None:
        """Read on until the output holds `text`."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + seconds
        while text not in self.output:
            line = self.process.stdout.readline()
            assert line, f"it ended without {text!r}:\n{self.output}"
            assert time.monotonic() < deadline, f"no {text!r} within {seconds} s:\n{self.output}"
            self.output += line

    def kill(self, number: signal.Signals) -> None:
        """As a terminal does: the signal goes to every process of the session's group."""
        os.killpg(self.process.pid, number)

    def end(self, seconds: float = 600) -> int:
        """Read the rest; the exit status."""
        rest, _ = self.process.communicate(timeout=seconds)
        self.output += rest
        return self.process.returncode


@dataclass
class Make:
    """Calls `make` with the Python that runs the tests, so that nothing is installed."""

    environment: dict[str, str]
    started: list[Command] = field(default_factory=list)

    def start(self, *arguments: str) -> Command:
        return self.shell("make " + " ".join(arguments))

    def shell(self, line: str) -> Command:
        process = subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", line],
            cwd=ROOT,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.started.append(Command(process))
        return self.started[-1]

    def close(self) -> None:
        for command in self.started:
            if command.process.poll() is None:
                command.kill(signal.SIGTERM)
                command.end(120)


@dataclass(frozen=True)
class DemoRuns:
    """`make demo DATA=fixture`, three times on the same storage.

    Attributes:
        killed: output of the first, killed by SIGKILL amid the students.
        continued, kept: outputs of the second and third.
    """

    storage: Path
    killed: str
    continued: str
    kept: str

    @property
    def project(self) -> Path:
        return self.storage / "fixture"


def processes(*entries: str) -> set[str]:
    """Ids of the processes in whose environment every `NAME=value` is, or begins so."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            environment = (process / "environ").read_bytes().split(b"\0")
            if all(any(given.startswith(entry.encode()) for given in environment) for entry in entries):
                found.add(process.name)
        except OSError:
            continue  # it ended meanwhile, or belongs to someone else
    return found


@contextmanager
def ray_nodes(prefix: str, **node: Any) -> Iterator[Any]:
    """A Ray cluster (`ray.cluster_utils.Cluster`) whose head is made with `node`, for drivers in other processes."""
    from ray.cluster_utils import Cluster

    folder, usual = tempfile.mkdtemp(prefix=prefix), Path(tempfile.gettempdir(), "ray")
    usual.mkdir(exist_ok=True)  # there Ray notes the address, wherever the rest is
    head = {**node, "include_dashboard": False, "dashboard_port": free_port(), "temp_dir": folder}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        yield cluster
    finally:
        cluster.shutdown()
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(usual, ignore_errors=True)
