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
    assert {"ray_overhead", "ray_epoch_overhead", "two_worker_speedup"} <= figures.keys()


@pytest.mark.full
def test_beauty(project_root: Path, tmp_path: Path) -> None:
    figures = last_figures(project_root, tmp_path, "beauty")
    expected = figures["plain_seconds_per_epoch"] / figures["seconds_per_epoch"]
    assert figures["speedup_vs_plain"] == pytest.approx(expected, rel=0.05)
    assert figures["loss"] == pytest.approx(figures["plain_loss"], rel=0.02), "the same model learns the same targets"
    assert figures["loss"] == sorted(figures["loss"], reverse=True)
    assert figures["seconds_by_history"].keys() == {"50", "100", "200"}


@pytest.mark.full
def test_quality(project_root: Path, tmp_path: Path) -> None:
    figures = last_figures(project_root, tmp_path, "quality")
    rows = figures["fixture/leave_one_out"]
    for metric in ("NDCG@10", "HR@10", "NDCG@20", "HR@20"):
        assert 0 < rows["softmax"][metric]["mean"] <= 1 and 0 < rows["bce"][metric]["mean"] <= 1
        assert rows["distilled"][metric] is None
    assert figures["missing"] == 3


@pytest.mark.full
def test_budget(project_root: Path, tmp_path: Path) -> None:
    figures = last_figures(project_root, tmp_path, "budget")
    rows = figures["fixture/leave_one_out"]
    assert {name for name, row in rows.items() if row["NDCG@10"]} == {
        "alone", "all", "random-10", "uncertainty-10", "coverage-10", "disagreement-10", "per-row-10", "permuted-10",
        "permuted-100",
    }  # fmt: skip
    assert rows["all"]["rows"]["mean"] > 5 * rows["random-10"]["rows"]["mean"] > 0 == rows["alone"]["rows"]["mean"]
    assert rows["uncertainty-10"]["choice, s"]["mean"] > 0 and figures["missing"] == 18


@pytest.mark.full
def test_teacher_inference(project_root: Path, tmp_path: Path) -> None:
    figures = last_figures(project_root, tmp_path, "teacher_inference")
    assert figures["closed"] >= 0.95
    assert figures["same_text"] >= 0.95 and figures["same_top1"] >= 0.95
    expected = figures["rows_per_second"] / figures["published_rows_per_second"]
    assert figures["speedup"] == pytest.approx(expected, rel=0.01)
    assert {"bf16_speedup", "hllm_speedup", "flop_share", "peak_gb"} <= figures.keys()


@pytest.mark.full
def test_headline(project_root: Path, tmp_path: Path) -> None:
    figures = last_figures(project_root, tmp_path, "headline")
    assert figures["same_top1"] >= 0.9 and figures["layer_ratio"] == 7.5
    expected = figures["published_seconds"] / figures["student_seconds"]
    assert figures["student_speedup_over_published"] == pytest.approx(expected, rel=0.05)
    assert min(figures[f"{side}_seconds"] for side in ("published", "pass", "student")) > 0
    assert figures["sampled_rows"] == 16 and figures["test_rows"] == 80
    seconds = figures["seconds"]
    for key, slow, fast in (
        ("rank_speedup", "rank 30", "rank 4"),
        ("train_speedup", "train 30", "train 4"),
        ("train_speedup_taught", "train 30", "train 4 taught"),
    ):
        assert figures[key] == pytest.approx(seconds[slow] / seconds[fast], rel=0.05)


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
def test_million(project_root: Path, tmp_path: Path) -> None:
    figures = last_figures(project_root, tmp_path, "million")
    for kind in ("gaussian", "clusters"):
        found = figures[kind]["20000"]
        for way in ("exact", "int8"):
            assert found[way]["recall@10"] >= 0.99 and found[way]["core_p50_ms"] > 0
            expected = found[way]["limit_ms"] / found[way]["core_p50_ms"]
            assert found[way]["limit_share"] == pytest.approx(expected, abs=1e-3)
            assert set(found[way]["parts_core_ms"]) == {"encode", "score", "choose"}


@pytest.mark.full
def test_slmrec(project_root: Path, tmp_path: Path) -> None:
    figures = last_figures(project_root, tmp_path, "slmrec")
    for name in ("sasrec", "e4srec-8", "4from8"):
        row = figures["ml-100k/leave_one_out"][name]
        assert 0 < row["NDCG@10"]["mean"] <= 1 and 0 < row["HR@1 of 1,000"]["mean"] <= 1
    assert figures["missing"] == 0


@pytest.mark.full
def test_tuned(project_root: Path, tmp_path: Path) -> None:
    figures = last_figures(project_root, tmp_path, "tuned")
    rows = figures["fixture/leave_one_out"]
    assert rows["softmax.sweep"]["epochs"]["mean"] >= 2 and rows["softmax-tuned"]["NDCG@10"]["seeds"] == 1
    assert rows["distilled.sweep"]["epochs"] is None and figures["missing"] == 2


@pytest.mark.full
def test_scale(project_root: Path, tmp_path: Path) -> None:
    figures = last_figures(project_root, tmp_path, "scale")
    for stage in ("preparation", "rules", "training", "evaluation"):
        sizes = figures[stage]
        assert list(sizes) == ["5000", "20000"]
        assert all(
            each["seconds"] > 0 < each["core_seconds"] and 0 <= each["own_gb"] < each["peak_gb"] < 10
            for each in sizes.values()
        )
        assert figures["exponent"][stage].keys() == {"core_seconds", "own_gb"}
    assert figures["evaluation"]["20000"]["items"] == pytest.approx(2000, rel=0.05)
    assert figures["rules"]["20000"]["rules"] > figures["rules"]["5000"]["rules"]


@pytest.mark.full
def test_workers(project_root: Path, tmp_path: Path) -> None:
    figures = last_figures(project_root, tmp_path, "workers")
    for stage in ("pass", "distillation"):
        assert figures[stage].keys() == {"in_process"} and figures["overhead"][stage] is None
        simulated = figures[f"simulated_{stage}"]
        assert simulated.keys() == {"in_process", "1"} and simulated["1"]["start_seconds"] > 0
        expected = simulated["in_process"]["rows_per_second"] / simulated["1"]["rows_per_second"] - 1
        assert figures["overhead"][f"simulated_{stage}"] == pytest.approx(expected, abs=0.01)
    slowest = 1000 / figures["simulated_ms_per_row"]
    assert figures["simulated_pass"]["1"]["rows_per_second"] <= slowest
    assert figures["ray_start_seconds"] > 0
