"""What a killed owner of a local Ray leaves behind is found and ended."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from ray_jobs.cluster import local_ray

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


def abandon(root: Path, owner: subprocess.Popen[bytes]) -> tuple[Path, subprocess.Popen[bytes]]:
    """A folder of `owner` and one process of its Ray."""
    folder = root / "recsys-ray-1"
    folder.mkdir()
    start = local_ray.start_time(owner.pid)
    (folder / "owner.json").write_text(json.dumps({"pid": owner.pid, "start": start, "marker": "of-this-test"}))
    return folder, subprocess.Popen(SLEEP, env={**os.environ, local_ray.MARKER: "of-this-test"})


def test_a_killed_owner_counts_as_dead_even_before_its_parent_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(local_ray, "LONGEST_ROOT", len(str(tmp_path)))
    owner = subprocess.Popen(SLEEP)
    folder, left = abandon(tmp_path, owner)
    try:
        assert local_ray.end_abandoned() == [], "the owner lives"
        owner.kill()
        os.waitid(os.P_PID, owner.pid, os.WEXITED | os.WNOWAIT)  # dead, and still in the process table
        (line,) = local_ray.end_abandoned()
        assert "1 processes" in line
        assert left.wait(10) != 0
        assert not folder.exists()
    finally:
        for process in (owner, left):
            process.kill()
            process.wait()
