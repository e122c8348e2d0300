import os
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import importlib, runpy
for name in runpy.run_path("__main__.py", run_name="benchmarks")["NAMES"]:
    importlib.import_module(name)
"""


def test_every_benchmark_finds_what_it_imports(project_root: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=project_root / "benchmarks",
        env={**os.environ, "PYTHONPATH": str(project_root / "benchmarks")},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
