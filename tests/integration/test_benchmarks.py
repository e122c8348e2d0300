"""`python benchmarks … --quick` works and prints the figures that others rely on."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


def last_figures(project_root: Path, tmp_path: Path, name: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, str(project_root / "benchmarks"), name, "--quick"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert not list(tmp_path.iterdir()), "nothing is left in the folder it was called from"
    lines = done.stdout.strip().splitlines()
    assert lines[0] == f"== {name}" and lines[-1].startswith(f"== {name} took")
    return json.loads(lines[-2])


@pytest.mark.full
def test_training(project_root: Path, tmp_path: Path) -> None:
    figures = last_figures(project_root, tmp_path, "training")
    assert figures["speedup_vs_plain"] > 0 and figures["peak_gb"] > 0
    expected = figures["plain_seconds_per_epoch"] / figures["seconds_per_epoch"]
    assert figures["speedup_vs_plain"] == pytest.approx(expected, rel=0.01)
    assert {"ray_overhead", "two_worker_speedup"} <= figures.keys()


@pytest.mark.full
def test_quality(project_root: Path, tmp_path: Path) -> None:
    figures = last_figures(project_root, tmp_path, "quality")
    sasrec = figures["fixture"]["leave_one_out"]["sasrec"]
    for metric in ("ndcg@10", "hr@10", "ndcg@20", "hr@20"):
        assert 0 < sasrec[metric]["alone_softmax"]["mean"] <= 1
        assert 0 < sasrec[metric]["alone_bce"]["mean"] <= 1
        assert sasrec[metric]["distilled"] is None
    assert figures["missing"] == 3


@pytest.mark.full
def test_teacher_inference(project_root: Path, tmp_path: Path) -> None:
    figures = last_figures(project_root, tmp_path, "teacher_inference")
    assert figures["closed"] >= 0.95
    assert figures["same_text"] >= 0.95 and figures["same_top1"] >= 0.95
    expected = figures["rows_per_second"] / figures["published_rows_per_second"]
    assert figures["speedup"] == pytest.approx(expected, rel=0.01)
    assert {"bf16_speedup", "hllm_speedup", "flop_share", "peak_gb"} <= figures.keys()


def test_an_unknown_benchmark_is_named(project_root: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(project_root / "benchmarks"), "speed"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert "no benchmark speed; there are" in done.stderr


@pytest.mark.full
def test_tune(project_root: Path, tmp_path: Path) -> None:
    figures = last_figures(project_root, tmp_path, "tune")
    assert 0 < figures["overhead_share"] < 1
    assert figures["trials"] == 3 and 0 < figures["epochs_share"] <= 1
    assert "memory_ratio_two_trials" in figures


@pytest.mark.full
def test_depth(project_root: Path, tmp_path: Path) -> None:
    figures = last_figures(project_root, tmp_path, "depth")
    assert figures["layer_ratio"] == 8 and figures["parameter_share"] == 0.125
    assert 0.125 < figures["parameter_share_total"] < 1
    seconds = figures["seconds"]
    for key, slow, fast in (
        ("inference_speedup", "rank teacher", "rank student"),
        ("train_speedup", "train teacher", "train taught"),
    ):
        assert figures[key] == pytest.approx(seconds[slow] / seconds[fast], rel=0.05)


@pytest.mark.full
def test_slmrec(project_root: Path, tmp_path: Path) -> None:
    figures = last_figures(project_root, tmp_path, "slmrec")
    for name in ("sasrec", "e4srec-8", "4from8"):
        assert 0 < figures[name]["full ndcg@10"]["mean"] <= 1 and 0 < figures[name]["hr@1"]["mean"] <= 1
    assert figures["missing"] == 0


@pytest.mark.full
def test_tuned(project_root: Path, tmp_path: Path) -> None:
    figures = last_figures(project_root, tmp_path, "tuned")
    found = figures["fixture/leave_one_out"]
    assert found["alone"]["sweep"]["trials"] == 2 and len(found["alone"]["ndcg@10"]) == 1
    assert found["distilled"]["sweep"] is None and figures["missing"] == 2
