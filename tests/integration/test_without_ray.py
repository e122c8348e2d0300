"""The whole path in one process, as README shows it."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from recsys.checkpoint import load_checkpoint
from recsys.config import from_dict
from recsys.data.prepared import PreparedDataset
from recsys.settings import Settings
from recsys.signals.signals import TeacherSignals
from recsys.stages import pipeline
from recsys.stages.executor import InProcess


def test_the_stages_need_no_ray(readme: dict[str, list[str]], project_root: Path, tmp_path: Path) -> None:
    code = readme["stages"][0] + "\nimport sys; assert not {'ray', 'ray_jobs'} & {*sys.modules}\n"
    environment = {**os.environ, "RECSYS_STORAGE": str(tmp_path), "PYTHONPATH": str(project_root)}
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, cwd=project_root, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "all 7 steps are done" in done.stdout
    made = tmp_path / "without-ray"
    assert (made / "students" / "sasrec-distilled" / "_SUCCESS").exists() and (made / "report" / "report.html").exists()
    assert (made / "rules" / "sequential-rules" / "_SUCCESS").exists()


@pytest.mark.parametrize("choice", ["uncertainty", "coverage", "disagreement"])
def test_rows_are_chosen_on_the_way(project_root: Path, tmp_path: Path, choice: str) -> None:
    asked = {} if choice == "coverage" else {"choose_student": "alone"}
    small = {"model": {"kind": "sasrec", "width": 16, "blocks": 1, "heads": 1}, "training": {"epochs": 1}}
    taught = {**small, "distillation": {"signals": "rules", "ranking": {"k": 5}, "embedding": None}}
    values: dict[str, Any] = {
        "name": "p", "storage": str(tmp_path), "tracking": {"uri": "none"},
        "data": {"source": "ml-100k", "path": str(project_root / "tests" / "fixtures" / "ml-tiny"), "max_history": 10},
        "rules": {"titles": None, "tuning": None},
        "students": {"alone": small, "taught": taught},
        "signals": {"k": 5, "train_rows": 50, "choose_rows": choice, **asked},
    }  # fmt: skip
    settings = from_dict(Settings, values)
    steps = {name: pipeline.STEPS[name] for name in ("prepare_data", "rules", "distill")}
    pipeline.run(settings, InProcess(), steps)
    layout = settings.layout
    dataset = PreparedDataset.load(layout.dataset)
    signals = TeacherSignals.load(layout.signals_of("rules"), dataset)
    assert signals.meta.rows["train"] == 50 and signals.meta.settings["choose_rows"] == choice
    teacher = load_checkpoint(layout.student("taught")).info["teacher"]
    assert teacher["coverage"] == pytest.approx(50 / len(dataset.rows("train")), abs=1e-3)
    made = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("_SUCCESS")}
    pipeline.run(settings, InProcess(), steps)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("_SUCCESS")} == made, "a second run makes nothing"
