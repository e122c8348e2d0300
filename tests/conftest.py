"""What all tests share: a private temporary folder, quiet libraries, one local Ray, and a check that nothing is left.

Every process that a test starts inherits the marker below, so leftovers are found whoever their parent is by then.
"""

import contextlib
import os
import shutil
import signal
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from ray_jobs.cli import QUIET
from recsys.environment import start_time
from recsys.ports import free_port
from recsys.serving.web import TOKEN_VARIABLE

MARKER = "RECSYS_TEST_SESSION"
ROOT = Path(__file__).resolve().parents[1]
FIXTURE = ROOT / "tests" / "fixtures" / "ml-tiny"


def pytest_configure(config: pytest.Config) -> None:
    # Tests that run in the background of a shell inherit that Ctrl-C is ignored, and so would what they start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # Short, because Ray puts Unix sockets (at most 107 characters) below it; a worker of pytest-xdist has the folder of
    # the process that started it as TMPDIR.
    usual = Path(tempfile.gettempdir())
    temporary = tempfile.mkdtemp(prefix="rt-", dir=usual.parent if hasattr(config, "workerinput") else usual)
    config.stash[_TEMPORARY] = Path(temporary)
    tempfile.tempdir = None
    os.environ.update(QUIET)
    os.environ.update({"TMPDIR": temporary, "RAY_AUTH_MODE": "disabled"})
    for inherited in ("RAY_ADDRESS", "RECSYS_STORAGE", "RECSYS_DATA", "PYTHONDONTWRITEBYTECODE"):
        os.environ.pop(inherited, None)
    session = os.environ.get(MARKER, uuid.uuid4().hex).partition(":")[0]
    os.environ[MARKER] = f"{session}:{os.getpid()}"
    for pid, owner in _processes_of(session).items():  # left by a worker that hung and was ended
        if start_time(int(owner)) is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The file that takes longest comes first, or one process would still be at it when the other has nothing left."""
    items.sort(key=lambda item: item.path.stem != "test_demo")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Fail the session when a process or a temporary file outlives it."""
    temporary = session.config.stash[_TEMPORARY]
    left = [f"process {line}" for line in _leftover_processes()]
    # What PyTorch's compiler makes when DeepSpeed is imported, and multiprocessing, which clears up at its end.
    expected = ("pytest-of-", "torchinductor_", "pymp-")
    left += [f"file {path}" for path in temporary.iterdir() if not path.name.startswith(expected)]
    for line in left:
        print(f"\nleft behind: {line}")
    if left and exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_unconfigure(config: pytest.Config) -> None:
    tempfile.tempdir = None
    shutil.rmtree(config.stash[_TEMPORARY], ignore_errors=True)


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One local Ray for all tests marked `ray`: four logical cores, no authentication.

    With its dashboard, which Ray Train asks whether a run's controller lives before it frees the run's places.
    """
    import ray

    os.environ[TOKEN_VARIABLE] = "secret"  # its processes inherit what this one has when it starts
    directory = tempfile.mkdtemp(prefix="ray-")
    ray.init(
        num_cpus=4,
        include_dashboard=True,
        dashboard_host="127.0.0.1",
        dashboard_port=free_port(),
        object_store_memory=300_000_000,
        logging_level="WARNING",
        _temp_dir=directory,
    )
    yield
    ray.shutdown()
    _wait_for_exit()
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def project_root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def fixture_data() -> Path:
    """The tiny MovieLens-like data set of the repository."""
    return FIXTURE


_TEMPORARY = pytest.StashKey[Path]()


def _leftover_processes() -> list[str]:
    """Processes that carry this session's marker, this one excepted; they get some seconds to end."""
    for _ in range(50):
        found = _marked_processes()
        if not found:
            return []
        time.sleep(0.2)
    return found


def _wait_for_exit() -> None:
    _leftover_processes()


def _marked_processes() -> list[str]:
    """What this process started, itself or through others."""
    session, _, own = os.environ[MARKER].partition(":")
    found = []
    for pid, owner in _processes_of(session).items():
        with contextlib.suppress(OSError):  # it ended meanwhile
            command = Path("/proc", str(pid), "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if owner == own and command:  # empty: a zombie, already dead
                found.append(f"{pid} {command[:150]}")
    return found


def _processes_of(session: str) -> dict[int, str]:
    """Process → the process of this test session that started it, itself or through others."""
    prefix = f"{MARKER}={session}:".encode()
    found = {}
    for process in Path("/proc").iterdir():
        if not process.name.isdigit() or int(process.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):  # it ended meanwhile, or belongs to someone else
            for entry in (process / "environ").read_bytes().split(b"\0"):
                if entry.startswith(prefix):
                    found[int(process.name)] = entry[len(prefix) :].decode()
    return found
