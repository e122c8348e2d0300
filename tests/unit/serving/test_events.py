import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.errors import UserError
from recsys.serving.events import SCHEMA, EventLog, compact_left, count_clicks, read_events, remove_oldest

FAST = 0.01


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def ids(folder: Path) -> list[str]:
    return read_events(folder)["request_id"].to_pylist()


def test_what_is_appended_is_soon_on_disk_and_finished_at_the_end(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "new" / "folder", flush_seconds=FAST)
    for number in range(5):
        log.append("exposure", request_id=f"r{number}", arm="student", items=["i1"], fallback=False)
    wait_for(lambda: len(ids(log.folder)) == 5)
    assert [path.suffix for path in log.folder.iterdir()] == [".jsonl"]
    log.append("feedback", request_id="r1", item_id="i1", event="click")
    log.close()
    assert [path.suffix for path in log.folder.iterdir()] == [".parquet"]
    (*shown, clicked) = read_events(log.folder).to_pylist()
    assert [event["request_id"] for event in shown] == [f"r{number}" for number in range(5)]
    assert (clicked["kind"], clicked["event"], clicked["arm"], clicked["items"]) == ("feedback", "click", None, None)
    assert abs(clicked["time"] - time.time()) < 60


def test_what_was_written_before_a_column_came_is_read(tmp_path: Path) -> None:
    older = pa.schema([field for field in SCHEMA if field.name != "failed"])
    row = {"kind": "exposure", "time": 1.0, "request_id": "r", "arm": "teacher", "teacher_failed": "busy", "items": []}
    pq.write_table(pa.Table.from_pylist([row], schema=older), tmp_path / "w-1.parquet")
    (event,) = read_events(tmp_path).to_pylist()
    assert (event["arm"], event["teacher_failed"], event["failed"]) == ("teacher", "busy", None)


def test_a_log_without_events_leaves_nothing(tmp_path: Path) -> None:
    EventLog(tmp_path, flush_seconds=FAST).close()
    assert not list(tmp_path.iterdir()) and len(read_events(tmp_path)) == 0


def test_full_segments_are_finished_and_the_oldest_make_room(tmp_path: Path) -> None:
    log = EventLog(tmp_path, flush_seconds=FAST, segment_bytes=2000, max_bytes=20_000)
    for number in range(40):
        log.append("exposure", request_id=f"r{number}", items=[f"i{number}"] * 100)
        time.sleep(0.012)
    log.close()
    files = list(tmp_path.glob("*.parquet"))
    assert len(files) > 1
    remove_oldest(tmp_path, 20_000)
    assert sum(path.stat().st_size for path in tmp_path.glob("*.parquet")) <= 20_000
    kept = ids(tmp_path)
    assert kept == [f"r{number}" for number in range(40)][-len(kept) :], "the latest are kept"
    remove_oldest(tmp_path, 0)
    assert not list(tmp_path.iterdir())


WRITER = """
import sys, time
from recsys.serving.events import EventLog
log = EventLog(sys.argv[1])
number = 0
while True:
    log.append("exposure", request_id=str(number), items=["i1", "i2"])
    print(number, time.time(), flush=True)
    number += 1
    time.sleep(0.005)
"""


def test_a_killed_writer_loses_its_last_second_at_most(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        lines = [writer.stdout.readline().split() for _ in range(600)]
        os.kill(writer.pid, signal.SIGKILL)
        lines += [line.split() for line in writer.stdout.read().splitlines()]
    written = ids(tmp_path)
    assert written == [str(number) for number in range(len(written))]
    last = float(lines[-1][1])
    lost = [float(when) for number, when in lines if int(number) >= len(written)]
    assert len(written) > 100 and all(last - when < 1.5 for when in lost), "one second, and a busy machine's delay"
    (segment,) = tmp_path.glob("*.jsonl")
    with segment.open("ab") as file:
        file.write(b'{"kind": "exposure", "request_id": "torn')
    assert ids(tmp_path) == written
    log = EventLog(tmp_path, flush_seconds=FAST)
    wait_for(lambda: not segment.exists())
    log.close()
    assert [path.suffix for path in tmp_path.iterdir()] == [".parquet"] and ids(tmp_path) == written


def test_a_segment_that_is_written_is_not_taken_for_one_that_was_left(tmp_path: Path) -> None:
    log = EventLog(tmp_path, flush_seconds=FAST)
    log.append("exposure", request_id="r0", items=[])
    wait_for(lambda: ids(tmp_path) == ["r0"])
    compact_left(tmp_path)
    log.append("exposure", request_id="r1", items=[])
    log.close()
    assert ids(tmp_path) == ["r0", "r1"]


def test_a_kill_between_the_two_forms_of_a_segment_counts_nothing_twice(tmp_path: Path) -> None:
    log = EventLog(tmp_path, flush_seconds=FAST)
    log.append("exposure", request_id="r0", items=[])
    wait_for(lambda: ids(tmp_path) == ["r0"])
    (segment,) = tmp_path.glob("*.jsonl")
    content = segment.read_bytes()
    log.close()
    segment.write_bytes(content)
    assert ids(tmp_path) == ["r0"]
    compact_left(tmp_path)
    assert ids(tmp_path) == ["r0"] and not segment.exists()


def test_where_writing_falls_behind_events_are_dropped_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recsys.serving.events._WAITING", 3)
    log = EventLog(tmp_path, flush_seconds=60)
    for number in range(5):
        log.append("exposure", request_id=f"r{number}", items=[])
    log.close()
    assert ids(tmp_path) == ["r0", "r1", "r2"] and log.dropped == 2


def test_a_folder_that_cannot_be_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"the log of events .*file cannot be written .* see serving\.log"):
        EventLog(tmp_path / "file")


def test_clicks_are_counted_once_on_what_was_shown(tmp_path: Path) -> None:
    log = EventLog(tmp_path, flush_seconds=FAST)
    for request_id, arm in (("a", "student"), ("b", "student"), ("c", "teacher"), ("a", "student")):
        log.append("exposure", request_id=request_id, arm=arm, items=["i1", "i2"])
    for request_id, item_id, event in (
        ("a", "i2", "click"), ("a", "i1", "click"), ("b", "i9", "click"), ("c", "i1", "buy"), ("?", "i1", "click"),
    ):  # fmt: skip
        log.append("feedback", request_id=request_id, item_id=item_id, event=event)
    log.close()
    assert count_clicks(read_events(tmp_path)) == {
        "student": {"shown": 2, "clicked": 1, "rate": 0.5},
        "teacher": {"shown": 1, "clicked": 0, "rate": 0.0},
    }
    assert count_clicks(read_events(tmp_path), "buy")["teacher"]["rate"] == 1
