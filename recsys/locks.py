"""One writer at a time: a lock on an artefact that works on disks and in object stores alike.

Arrow offers no write that fails where an object is already, so the lock is not one file. Whoever wants it writes a
*claim* of its own beside the artefact, then lists the claims: alone it has the lock, otherwise it takes its claim back
and waits. A listing shows every claim that was written before it began (on a disk, in S3, GCS and Azure), so of two
claims at least one sees the other, and never do two have the lock.

    <parent>/.<name>.lock-<id>      host, process, since when, and a count that its owner raises every 15 s

A claim is void when its owner is a process of this machine that has ended, or when its count has not moved for 120 s
before the eyes of the one who waits: no clocks are compared. Hence what this does not guarantee: an owner that stands
still for so long (a suspended machine) loses the lock and does not know until it goes on; and where nodes see each
other's files late (NFS with attribute caching), two that begin within that time may both get it. Artefacts are then
still written whole on a disk, and in an object store a mixture fails its checksums.
"""

import json
import os
import random
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from pyarrow import fs

from recsys import environment, storage
from recsys.environment import start_time

BEAT = 15.0  # seconds between two signs of life
EXPIRY = 120.0  # seconds without one
POLL = 1.0  # seconds between two looks of the one who waits
_TELL = 60.0  # seconds between two lines of it
_TRIES = 20  # to write a claim into a folder that others may be removing
_UNKNOWN = "another process"

Say = Callable[[str], None]
_print: Say = partial(print, flush=True)


@dataclass(frozen=True)
class Owner:
    """Who holds a lock.

    Attributes:
        machine: process numbers mean the same wherever this is equal; "" where that is not known.
        start: when the process started, in clock ticks: tells it from a later one of the same number.
        since: local time, for people.
    """

    host: str
    machine: str
    pid: int
    start: int | None
    since: str

    @classmethod
    def this(cls) -> "Owner":
        since = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
        return cls(socket.gethostname(), _machine(), os.getpid(), start_time(os.getpid()), since)

    @property
    def ended(self) -> bool:
        """Whether it is a process of this machine that is no more."""
        if self.machine == "" or self.machine != _machine():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:  # of another user: whether it is the same cannot always be seen
            return False
        return start_time(self.pid) != self.start

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.since}"


@contextmanager
def hold(uri: str, what: str, say: Say = _print) -> Iterator[None]:
    """Keep others that `hold` the artefact `uri` waiting; wait for the one that does. Not to be nested for one `uri`.

    Args:
        what: what is made, as the subject of the sentence that names the one who is waited for.
        say: gets that sentence, at once and every minute.

    Raises:
        UserError: the storage may not be written.
    """
    lock = _Lock(uri)
    told = float("-inf")
    while not lock.take():
        if time.monotonic() - told > _TELL and lock.others:
            told = time.monotonic()
            say(f"{what} is being made by {lock.others[0]}; waiting for it")
        time.sleep(random.uniform(0.5, 1.5) * POLL)
    stop = threading.Event()
    beating = threading.Thread(target=lock.beat, args=(stop, what, say), daemon=True)
    beating.start()
    try:
        storage.remove_leftovers(uri)
        yield
    finally:
        stop.set()
        beating.join()
        lock.release()


class _Lock:
    """One claim on an artefact, and what is known of the others.

    Attributes:
        others: the owners of the claims that stood in the way of the last `take`, in words.
    """

    def __init__(self, uri: str) -> None:
        parent, _, name = uri.rstrip("/").rpartition("/")
        self._system, self._parent = storage.filesystem(parent)
        self._prefix = f".{name}.lock-"
        self._name = f"{self._prefix}{uuid.uuid4().hex}"
        self._uri, self._path = f"{parent}/{self._name}", f"{self._parent}/{self._name}"
        self._owner, self._count = Owner.this(), 0
        self._seen: dict[str, tuple[bytes, float]] = {}  # of each claim: its content, and since when it is that
        self._made: list[Path] = []  # folders that were not there before
        self.others: list[str] = []

    def take(self) -> bool:
        """Get the lock unless another has it or is about to."""
        if self._claims():  # without a claim of one's own in the way of those who are about to
            return False
        self._write()
        if self._claims():
            self.release()
            return False
        return True

    def release(self) -> None:
        with suppress(FileNotFoundError):
            self._system.delete_file(self._path)
        with suppress(OSError):  # not empty any more
            while self._made:
                self._made.pop().rmdir()

    def beat(self, stop: threading.Event, what: str, say: Say) -> None:
        """Raise the count of the claim until `stop`."""
        while not stop.wait(BEAT):
            with suppress(OSError, ValueError):  # the storage is away for a while: the next sign may come in time
                if not storage.exists(self._uri):
                    say(f"{what}: this run gave no sign for {EXPIRY:g} s, and another has taken its place")
                    return
                self._write()

    def _write(self) -> None:
        self._count += 1
        with storage.explain_unwritable(self._uri):
            for attempt in range(_TRIES):
                try:
                    if isinstance(self._system, fs.LocalFileSystem):
                        self._make_folders(Path(self._parent))
                    # In place: a temporary file beside it would be a claim as well. Half of it is no sign of death.
                    with self._system.open_output_stream(self._path, compression=None) as stream:
                        stream.write(json.dumps({**asdict(self._owner), "count": self._count}).encode())
                    return
                except FileNotFoundError:  # the folder was one that another had made, and has just removed
                    if attempt + 1 == _TRIES:
                        raise

    def _make_folders(self, folder: Path) -> None:
        if not folder.exists():
            self._make_folders(folder.parent)
            with suppress(FileExistsError):
                folder.mkdir()
                self._made.append(folder)

    def _claims(self) -> list[str]:
        """The claims of others that hold; those that are void are removed."""
        self.others = []
        found = self._system.get_file_info(fs.FileSelector(self._parent, allow_not_found=True))
        for info in found:
            if info.base_name.startswith(self._prefix) and info.base_name != self._name:
                said = self._read(info.path)
                if said is not None:
                    self.others.append(said)
        return self.others

    def _read(self, path: str) -> str | None:
        """Who has a claim, in words; None where it is void or gone."""
        try:
            with self._system.open_input_stream(path, compression=None) as stream:
                content = stream.read()
        except FileNotFoundError:
            return None
        except OSError:  # as an object store says when it goes while it is read; the next look will tell
            return _UNKNOWN
        before, since = self._seen.get(path, (None, 0.0))
        if content != before:
            since = time.monotonic()
            self._seen[path] = content, since
        owner = _owner(content)
        if (owner and owner.ended) or time.monotonic() - since > EXPIRY:
            with suppress(FileNotFoundError):
                self._system.delete_file(path)
            return None
        return str(owner or _UNKNOWN)


def _owner(content: bytes) -> Owner | None:
    """None where the claim is only half written."""
    try:
        said: dict[str, Any] = json.loads(content)
        said.pop("count")
        return Owner(**said)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def _machine() -> str:
    found = environment.boot()
    return f"{found[0]}:{found[1]}" if found else ""
