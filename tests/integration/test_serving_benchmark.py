"""`benchmarks/serving.py --quick` works and prints the figures that others rely on as its last line."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.full
def test_quick_run_prints_its_figures(project_root: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(project_root / "benchmarks" / "serving.py"), "--quick"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    figures = json.loads(done.stdout.strip().splitlines()[-1])
    for arm in ("teacher", "student", "null"):
        assert figures[arm]["errors"] == 0
        assert 0 < figures[arm]["p50_ms"] <= figures[arm]["p99_ms"]
        assert figures[arm]["rps_16"] > 0
    assert figures["student"]["model_ms"] > 0 == figures["null"]["model_ms"]
    difference = figures["student"]["p50_ms"] - figures["null"]["p50_ms"]
    assert abs(figures["student_minus_null_ms"] - difference) < 0.01
    assert {"student_over_null_p50", "teacher_over_student_model_time"} <= figures.keys()
    assert figures["proxy"] == "serve"
    assert not list(tmp_path.iterdir()), "nothing is left in the folder it was called from"
