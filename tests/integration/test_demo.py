"""`make demo` killed, continued, kept, interrupted; README.md's commands on what it made; jobs by the real job API."""

import contextlib
import ipaddress
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from ray_jobs.cluster.local_ray import MARKER as RAY_MARKER
from ray_jobs.cluster.local_ray import LocalRay, local_ray
from ray_jobs.cluster.submission import submit
from recsys.evaluation.ladder import verdict
from recsys.ports import free_port
from tests.integration.commands import DemoRuns, Make, processes

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
    said = verdict(json.loads((demo.project / "results" / "ladder.json").read_text()))
    assert (said or "dataset fixture") in demo.kept[demo.kept.index("all 8 steps are done") :]


def test_runs_are_children_of_one_pipeline_that_was_continued(demo: DemoRuns) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{demo.storage}/mlflow/mlflow.db")
    experiment = client.get_experiment_by_name("fixture")
    runs = client.search_runs([experiment.experiment_id])
    names = sorted(run.info.run_name for run in runs)
    stages = ["distill sasrec", "distill sasrec-distilled", "evaluate", "infer_teacher", "measure_ab", "prepare_data"]
    assert names == sorted([*stages, "pipeline", "report", "rules", "train_teacher"])
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
        return folders | processes(f"{MARKER}={os.environ[MARKER]}", f"{RAY_MARKER}=")

    before = left()
    command = make.start("demo", "DATA=fixture", f"STORAGE={tmp_path}")
    command.wait_for("[1/8]")
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


@pytest.fixture(scope="module")
def server() -> Iterator[LocalRay]:
    with local_ray() as ray:
        assert submit(ray, "true") == 0  # waits until the agent that starts drivers is there
        yield ray


def test_readme_jobs(
    server: LocalRay, demo: DemoRuns, make: Make, readme: dict[str, list[str]], tmp_path: Path
) -> None:
    """The commands of README.md on the tiny data set, where all but the last step is kept."""
    shutil.copytree(demo.storage, tmp_path / "runs")
    (commands,) = readme["jobs"]
    commands = commands.replace("demo.yaml", "fixture.yaml").replace("/shared/runs", str(tmp_path / "runs"))
    variables = " ".join(f"{name}={value}" for name, value in server.environment.items())
    command = make.shell(f"export {variables}\n{commands}")
    assert command.end() == 0, command.output
    assert command.output.count("succeeded") == 2
    assert "items of the user's past ranked as well" in command.output


def test_a_users_mistake_is_one_line_and_its_exit_status(server: LocalRay, capsys: pytest.CaptureFixture[str]) -> None:
    assert submit(server, "python -m ray_jobs.evaluate --storage /nowhere/runs") == 2
    assert submit(server, "python -m ray_jobs.prepare_data --config ray_jobs/configs/fixture.yaml") == 2
    lines = [line for line in capsys.readouterr().out.splitlines() if line]
    assert lines[0].startswith("error: there is no prepared dataset in /nowhere/runs/demo/dataset")
    assert lines[1].startswith("error: storage 'runs' lies in the job's own folder, which vanishes")
    assert len(lines) == 2


def test_nobody_without_the_token_is_let_in(server: LocalRay) -> None:
    url = f"{server.address}/api/jobs/"
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(url, timeout=10)
    assert refused.value.code == 401
    with urllib.request.urlopen(urllib.request.Request(url, headers=server.headers), timeout=10) as answer:
        assert answer.status == 200
    assert (server.folder / "token").stat().st_mode & 0o777 == 0o600
    assert server.folder.stat().st_mode & 0o777 == 0o700


def test_no_port_listens_beyond_this_machine(server: LocalRay) -> None:
    marker = json.loads((server.folder / "owner.json").read_text())["marker"]
    listening = set()
    for pid in processes(f"{RAY_MARKER}={marker}"):
        with contextlib.suppress(psutil.NoSuchProcess):
            for connection in psutil.Process(int(pid)).net_connections("tcp"):
                if connection.status == psutil.CONN_LISTEN:
                    listening.add((connection.laddr.ip.removeprefix("::ffff:"), connection.laddr.port))
    assert len(listening) > 5, "a Ray is running"
    assert {place for place in listening if not ipaddress.ip_address(place[0]).is_loopback} == set()


ALONE = """
import pkgutil, sys
import ray_jobs
from ray_jobs import cli
for job in pkgutil.iter_modules(ray_jobs.__path__, "ray_jobs."):
    __import__(job.name)
assert "ray" not in sys.modules, "Ray reads its environment when it is imported, before a job has seen RAY_ADDRESS"

def body(settings, args):
    import psutil
    from ray_jobs.cluster import runtime
    runtime.connect()
    own = psutil.Process()
    for process in (own, *own.children(recursive=True)):
        for connection in process.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN:
                print("listens:", connection.laddr.ip.removeprefix("::ffff:"))

cli.run_job("a job", body)
"""


def test_a_job_that_starts_its_own_ray_listens_on_loopback(tmp_path: Path) -> None:
    command = [sys.executable, "-c", ALONE, "--storage", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    listening = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("listens:")]
    assert len(listening) > 5
    assert [address for address in listening if not ipaddress.ip_address(address).is_loopback] == []
