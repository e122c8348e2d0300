"""What was shown and what came of it: an append-only log of exposures and feedback, to count clicks per arm from.

A writer appends JSON lines to a segment of its own and hands them to the system every second, so a killed process loses
at most the last second. A full segment is rewritten as Parquet; those of writers that were killed are found by the next
one, by their lock. All files lie in one folder of a disk, which any number of processes of a machine share:

    <writer>-<number>.jsonl      a segment that is written, or that its writer left
    <writer>-<number>.parquet    finished
"""

import fcntl
import json
import os
import queue
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from recsys.errors import UserError

FLUSH_SECONDS = 1.0
SEGMENT_BYTES = 16 << 20
_WAITING = 100_000  # events that may wait for the writer; further ones are dropped and counted

SCHEMA = pa.schema(
    [
        ("kind", pa.string()),  # exposure, failure (no answer), feedback, or shadow: a list that nobody saw
        ("time", pa.float64()),  # seconds since 1970
        ("request_id", pa.string()),
        # Of exposures, of shadows but for `fallback` and why an arm failed, and the first four of failures:
        ("user_id", pa.string()),
        ("arm", pa.string()),
        ("assigned_by", pa.string()),
        ("experiment", pa.int64()),
        ("answered_by", pa.string()),
        ("failed", pa.string()),
        ("teacher_failed", pa.string()),
        ("checkpoint", pa.string()),
        ("fallback", pa.bool_()),
        ("items", pa.list_(pa.string())),
        ("model_ms", pa.float64()),
        ("queue_ms", pa.float64()),
        # Of shadows; the student's list is in the exposure of the same request:
        ("agreement", pa.float64()),
        # Of feedback:
        ("item_id", pa.string()),
        ("event", pa.string()),
    ]
)


class EventLog:
    """A writer of the log, with a thread of its own.

    Args:
        folder: of a local disk, or of one whose locks hold between machines.
        max_bytes: what the finished files may take, those of all writers together; the oldest are removed first.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        max_bytes: int = 1 << 30,
        segment_bytes: int = SEGMENT_BYTES,
        flush_seconds: float = FLUSH_SECONDS,
    ) -> None:
        self.folder = Path(folder)
        self.dropped = 0
        self._max_bytes, self._segment_bytes, self._pause = max_bytes, segment_bytes, flush_seconds
        self._writer, self._number = uuid.uuid4().hex[:12], 0
        self._events: queue.SimpleQueue[Mapping[str, Any]] = queue.SimpleQueue()
        self._closing = threading.Event()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._segment = self._open()
        except OSError as error:
            raise UserError(f"the log of events {self.folder} cannot be written ({error}); see serving.log") from None
        self._thread = threading.Thread(target=self._work, name="events", daemon=True)
        self._thread.start()

    def append(self, kind: str, **values: Any) -> None:
        """Add an event: it is written within a second. Never waits; where writing falls far behind, it is dropped."""
        if self._events.qsize() >= _WAITING:
            self.dropped += 1
            return
        self._events.put({"kind": kind, "time": time.time(), **values})

    def close(self) -> None:
        """Write what waits, and finish the segment."""
        self._closing.set()
        self._thread.join()

    def _work(self) -> None:
        compact_left(self.folder)
        while not self._closing.wait(self._pause):
            self._try(self._flush)
        self._try(self._flush)
        self._try(self._finish)

    def _try(self, step: Callable[[], None]) -> None:
        """A full disk ends neither the thread nor the service."""
        try:
            step()
        except OSError as error:
            print(f"the log of events {self.folder} cannot be written ({error})", flush=True)

    def _flush(self) -> None:
        lines = []
        while not self._events.empty():
            lines.append(json.dumps(self._events.get(), separators=(",", ":")) + "\n")
        if not lines:
            return
        try:
            left = memoryview("".join(lines).encode())
            while left:
                left = left[self._segment.write(left) :]
            os.fsync(self._segment.fileno())
        except OSError:
            self.dropped += len(lines)
            raise
        if os.fstat(self._segment.fileno()).st_size >= self._segment_bytes:
            self._finish()
            self._segment = self._open()
            compact_left(self.folder)
            remove_oldest(self.folder, self._max_bytes)

    def _open(self) -> FileIO:
        """A new segment, locked. Another writer may take it for one that was left before it is, and remove it."""
        while True:
            self._number += 1
            path = self.folder / f"{self._writer}-{self._number}.jsonl"
            segment = FileIO(path, "a")
            fcntl.flock(segment, fcntl.LOCK_EX)
            if path.exists():
                return segment
            segment.close()

    def _finish(self) -> None:
        compact(Path(str(self._segment.name)))
        self._segment.close()


def compact(segment: Path) -> None:
    """Rewrite a segment as Parquet, whole or not at all, and remove it."""
    table = _read_segment(segment)
    if len(table):
        whole = segment.with_suffix(".parquet")
        partial = segment.with_suffix(".partial")
        pq.write_table(table, partial)
        partial.replace(whole)
    segment.unlink()


def compact_left(folder: Path) -> None:
    """Rewrite the segments whose writers are no more: nobody holds their lock."""
    for segment in sorted(folder.glob("*.jsonl")):
        with suppress(OSError), segment.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if segment.exists():
                compact(segment)


def remove_oldest(folder: Path, max_bytes: int) -> None:
    """Remove finished files, the oldest first, until the others take no more than `max_bytes`."""
    files = []
    for path in folder.glob("*.parquet"):
        with suppress(FileNotFoundError):  # another writer was faster
            files.append((path.stat().st_mtime_ns, path.stat().st_size, path))
    size = sum(size for _, size, _ in files)
    for _, own, path in sorted(files):
        if size <= max_bytes:
            return
        path.unlink(missing_ok=True)
        size -= own


def read_events(folder: str | Path) -> pa.Table:
    """All events of a log by time: `SCHEMA`, those of segments that are still written included."""
    tables = [SCHEMA.empty_table()]
    for segment in Path(folder).glob("*.jsonl"):
        if not segment.with_suffix(".parquet").exists():  # just being finished
            with suppress(FileNotFoundError):
                tables.append(_read_segment(segment))
    for path in Path(folder).glob("*.parquet"):
        with suppress(FileNotFoundError):
            tables.append(pq.read_table(path, schema=SCHEMA))
    return pa.concat_tables(tables).sort_by("time")


def count_clicks(events: pa.Table, event: str = "click") -> dict[str, dict[str, float]]:
    """Per arm: answers shown, those with at least one `event` on an item that they showed, and the share.

    A request that a client sent twice under one id counts once.
    """
    shown: dict[str, tuple[str, set[str]]] = {}
    for row in _rows(events, "exposure", ("request_id", "arm", "items")):
        shown.setdefault(row["request_id"], (row["arm"], set(row["items"])))
    hits = {
        row["request_id"]
        for row in _rows(events, "feedback", ("request_id", "item_id", "event"))
        if row["event"] == event and row["item_id"] in shown.get(row["request_id"], ("", set()))[1]
    }
    counts: dict[str, dict[str, float]] = {}
    for request_id, (arm, _) in shown.items():
        one = counts.setdefault(arm, {"shown": 0, "clicked": 0})
        one["shown"] += 1
        one["clicked"] += request_id in hits
    return {arm: {**one, "rate": one["clicked"] / one["shown"]} for arm, one in sorted(counts.items())}


def _rows(events: pa.Table, kind: str, names: Iterable[str]) -> list[dict[str, Any]]:
    return [row for row in events.select(["kind", *names]).to_pylist() if row["kind"] == kind]


def _read_segment(segment: Path) -> pa.Table:
    """The whole lines of a segment; the last one may be torn."""
    events = []
    for line in segment.read_bytes().splitlines(keepends=True):
        if line.endswith(b"\n"):
            with suppress(ValueError):
                events.append(json.loads(line))
    return pa.Table.from_pylist(events, schema=SCHEMA)
