"""One writer at a time, on a disk and in an object store."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from pyarrow import fs

from recsys import locks, storage

HOLD = """
import sys
from recsys import locks
with locks.hold(sys.argv[1], "student a"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(params=["disk", "s3"])
def artefact(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(locks, "POLL", 0.01)
    root = request.getfixturevalue("bucket") if request.param == "s3" else str(tmp_path)
    return storage.join(root, "students", "a")


def claims(artefact: str) -> list[str]:
    system, path = storage.filesystem(artefact.rpartition("/")[0])
    infos = system.get_file_info(fs.FileSelector(path, allow_not_found=True))
    return [info.base_name for info in infos if ".lock-" in info.base_name]


def claim(artefact: str, content: dict | str) -> str:
    parent, _, name = artefact.rpartition("/")
    uri = f"{parent}/.{name}.lock-other"
    storage.write_bytes(uri, (content if isinstance(content, str) else json.dumps(content)).encode())
    return uri


def other(**changes) -> dict:
    """What another process says of itself."""
    known = {"host": "node-2", "machine": "m", "pid": 7, "start": 3, "since": "2026-01-01 10:00:00+00:00", "count": 1}
    return {**known, **changes}


def test_a_folder_that_is_removed_before_the_claim_is_written_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, calls = locks._Lock._make_folders, []

    def gone_at_first(self: locks._Lock, folder: Path) -> None:
        calls.append(folder)
        if len(calls) > 1:
            make(self, folder)

    monkeypatch.setattr(locks._Lock, "_make_folders", gone_at_first)
    with locks.hold(str(tmp_path / "students" / "a"), "student a", say=print):
        assert len(calls) > 1
    assert not (tmp_path / "students").exists()


def test_never_two_at_once(artefact: str) -> None:
    inside, most, done = [0], [0], [0]

    def work() -> None:
        for _ in range(2):
            with locks.hold(artefact, "student a", say=lambda line: None):
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                time.sleep(0.002)
                inside[0] -= 1
                done[0] += 1

    workers = [threading.Thread(target=work) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert (most, done) == ([1], [6])
    assert claims(artefact) == []


def test_the_second_says_who_it_waits_for(artefact: str) -> None:
    uri = claim(artefact, other())
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        system, path = storage.filesystem(uri)
        system.delete_file(path)  # the other has done

    with locks.hold(artefact, "student a", say=say):
        assert len(claims(artefact)) == 1
    assert said == ["student a is being made by process 7 on node-2 since 2026-01-01 10:00:00+00:00; waiting for it"]
    assert claims(artefact) == []


@pytest.mark.parametrize("content", [other(), "", "{", "[]", '{"count": 1}'], ids=str)
def test_a_claim_without_a_sign_of_life_is_void(
    tmp_path: Path, content: dict | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "POLL", 0.01)
    monkeypatch.setattr(locks, "EXPIRY", 0.05)
    artefact = str(tmp_path / "a")
    claim(artefact, content)
    with locks.hold(artefact, "a", say=lambda line: None):
        assert len(claims(artefact)) == 1, "its own"


def test_a_claim_with_signs_of_life_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "EXPIRY", 0.05)
    lock = locks._Lock(str(tmp_path / "a"))
    for count in range(4):
        claim(str(tmp_path / "a"), other(count=count))
        assert not lock.take()
        time.sleep(0.06)
    assert lock.take(), "the last sign is too long ago"


def test_the_holder_gives_signs_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "BEAT", 0.005)
    artefact = tmp_path / "a"
    with locks.hold(str(artefact), "a"):
        file = next(tmp_path.glob(".a.lock-*"))
        deadline = time.monotonic() + 30
        while b'"count": 3' not in file.read_bytes():
            assert time.monotonic() < deadline
            time.sleep(0.005)


def test_what_a_killed_process_holds_is_taken_over_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "POLL", 0.01)
    artefact = tmp_path / "students" / "a"
    command = [sys.executable, "-c", HOLD, str(artefact)]
    root = Path(__file__).parents[2]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=root, text=True, **pipes) as holder:
        try:
            assert holder.stdout.readline() == "held\n"
            assert not locks._Lock(str(artefact)).take()
            # Its unfinished work goes with its lock.
            left = artefact.with_name(".a.abcd_123.tmp")
            left.mkdir()
        finally:
            os.kill(holder.pid, signal.SIGKILL)
        # Not waited for yet: such a process is still in the table.
        with locks.hold(str(artefact), "student a", say=lambda line: None):
            assert len(claims(str(artefact))) == 1
    assert list(artefact.parent.iterdir()) == []


def test_a_number_that_another_process_has_now_is_no_sign_of_life() -> None:
    this = locks.Owner.this()
    assert not this.ended
    assert locks.Owner(**{**vars(this), "start": (this.start or 0) - 1}).ended
    assert not locks.Owner(**{**vars(this), "start": 0, "machine": "another"}).ended, "nobody knows"
