"""`make demo`: killed and continued, kept, interrupted; and the commands of README.md on what it made."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from ray_jobs import local_ray
from tests.integration.commands import DemoRuns, Make, free_port, processes

MARKER = "RECSYS_TEST_SESSION"  # in the environment of whatever this session starts (tests/conftest.py)
pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]


def test_a_killed_demo_is_continued(demo: DemoRuns) -> None:
    assert "valid ndcg@10" in demo.killed, "progress is shown"
    assert "ended a Ray that a killed run left behind" in demo.continued
    assert "teacher: epoch" not in demo.continued, "what was finished is kept"
    assert "student-sasrec-distilled: epoch 2/2" in demo.continued
    for name in ("recent-popularity", "co-occurrence", "sasrec", "sasrec-distilled", "teacher", "NDCG@10", "p99"):
        assert name in demo.continued
    assert (demo.project / "report" / "report.html").exists()
    for place in ("report/report.html", "teacher", "students/sasrec", "dataset"):
        assert str(demo.project / place) in demo.continued
    assert f"sqlite:///{demo.storage}/mlflow/mlflow.db" in demo.continued


def test_nothing_of_the_machinery_shows(demo: DemoRuns) -> None:
    for output in (demo.continued, demo.kept):
        for chatter in ("Traceback", "core_worker", "\x1b[", "INFO", "WARNING"):
            assert chatter not in output, output


def test_a_second_demo_starts_no_trainer_and_prints_the_results_again(demo: DemoRuns) -> None:
    assert "epoch" not in demo.kept
    ladder = demo.continued[demo.continued.index("Quality ladder") :].partition("evaluate took")[0]
    assert next(line for line in ladder.splitlines() if "distilled" in line) in demo.kept
    assert str(demo.project / "report" / "report.html") in demo.kept


def test_runs_are_children_of_one_pipeline_that_was_continued(demo: DemoRuns) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{demo.storage}/mlflow/mlflow.db")
    experiment = client.get_experiment_by_name("fixture")
    runs = client.search_runs([experiment.experiment_id])
    names = sorted(run.info.run_name for run in runs)
    stages = ["distill sasrec", "distill sasrec-distilled", "evaluate", "infer_teacher", "measure_ab", "prepare_data"]
    assert names == sorted([*stages, "pipeline", "report", "train_teacher"])
    assert {run.info.status for run in runs} == {"FINISHED"}
    (parent,) = [run.info.run_id for run in runs if run.info.run_name == "pipeline"]
    others = {run.data.tags.get("mlflow.parentRunId") for run in runs if run.info.run_id != parent}
    assert others == {parent}
    (training,) = [run.info.run_id for run in runs if run.info.run_name == "train_teacher"]
    assert [metric.step for metric in client.get_metric_history(training, "valid_ndcg_at_10")] == [1, 2]


def test_ctrl_c_leaves_nothing_running(make: Make, tmp_path: Path) -> None:
    def left() -> set[str]:
        folders = {str(path) for path in Path(tempfile.gettempdir()).glob("recsys-ray-*")}
        # Not those of the Ray that other tests share, whose workers come and go.
        return folders | processes(f"{MARKER}={os.environ[MARKER]}", f"{local_ray.MARKER}=")

    before = left()
    command = make.start("demo", "DATA=fixture", f"STORAGE={tmp_path}")
    command.wait_for("[1/7]")
    assert len(left() - before) > 5, "a Ray is running"
    command.kill(signal.SIGINT)
    assert command.end(120) != 0
    assert "run the same command again to continue" in command.output
    assert "Traceback" not in command.output
    assert left() <= before


def test_readme_python(demo: DemoRuns, readme: dict[str, list[str]], tmp_path: Path) -> None:
    (code,) = readme["python"]
    code = code.replace("runs/demo", str(demo.project))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 0, done.stderr
    (answer,) = eval(done.stdout)
    assert len(answer) == len(set(answer)) == 10


def test_readme_serving(demo: DemoRuns, make: Make, readme: dict[str, list[str]]) -> None:
    port = free_port()
    server = make.start("serve", "DATA=fixture", f"STORAGE={demo.storage}", f"ARGS=serving.port={port}")
    server.wait_for(f"serving teacher, student, null at http://127.0.0.1:{port}")
    (curl,) = readme["serve"]
    answer = make.shell(curl.replace("8000", str(port)))
    assert answer.end(120) == 0, answer.output
    body = json.loads(answer.output)
    assert len(body["items"]) == 5
    assert body["assigned_by"] == "user"
    server.kill(signal.SIGINT)
    server.end(120)
    assert "stopped" in server.output


def test_readme_demo_command_is_what_was_run(readme: dict[str, list[str]]) -> None:
    (command,) = readme["demo"]
    assert command.partition("#")[0].strip() == "make demo DATA=fixture"
