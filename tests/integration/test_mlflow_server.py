"""Runs recorded by a real MLflow server that several processes write to, and that hangs and dies on the way."""

import os
import pickle
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from recsys import tracking
from recsys.ports import free_port
from recsys.tracking import Run, TrackingConfig

pytestmark = [pytest.mark.full, pytest.mark.faults]

WORKER = """
import pickle, sys
run, rank = pickle.load(open(sys.argv[1], "rb")), int(sys.argv[2])
for step in range(20):
    run.log_metrics({f"loss_{rank}": step / 2}, step=step)
"""


@dataclass
class Server:
    """`mlflow server` on loopback."""

    folder: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db", "--workers", "1"]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        for _ in range(600):
            try:
                urllib.request.urlopen(f"{self.uri}/health", timeout=5).close()
                return
            except OSError:
                assert self.process.poll() is None, (self.folder / "log").read_text()
                time.sleep(0.2)
        pytest.fail("no answer of the server")

    def send(self, number: signal.Signals) -> None:
        """To it and its processes."""
        assert self.process is not None
        os.killpg(self.process.pid, number)
        if number == signal.SIGKILL:
            self.process.wait()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path)
    made.start()
    yield made
    assert made.process is not None
    if made.process.poll() is None:
        made.send(signal.SIGKILL)


def values(run: Run, name: str) -> list[float]:
    from mlflow import MlflowClient

    return [metric.value for metric in MlflowClient(tracking_uri=run.uri).get_metric_history(run.id, name)]


def test_many_write_and_what_is_measured_while_it_hangs_or_is_gone_comes_later(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # short, for the test's sake
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    later = 0.0
    now = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: now() + later)
    with tracking.start_run(TrackingConfig(uri=server.uri), "", "p", "train") as run:
        (tmp_path / "run").write_bytes(pickle.dumps(run))
        workers = [
            subprocess.Popen([sys.executable, "-c", WORKER, str(tmp_path / "run"), str(rank)]) for rank in range(3)
        ]
        assert [worker.wait(120) for worker in workers] == [0, 0, 0]
        for rank in range(3):
            assert values(run, f"loss_{rank}") == [step / 2 for step in range(20)]

        server.send(signal.SIGSTOP)
        begun = now()
        for step in range(100):
            run.log_metrics({"loss": float(step)}, step=step)
        assert now() - begun < 30, "asked once, not for every record"
        server.send(signal.SIGCONT)
        later += 61
        run.log_metrics({"loss": 100.0}, step=100)
        assert sorted(set(values(run, "loss"))) == [float(step) for step in range(101)]

        server.send(signal.SIGKILL)
        run.log_metrics({"later": 1.0}, step=0)
        run.set_tags({"note": "kept"})
        server.start()
    from mlflow import MlflowClient

    stored = MlflowClient(tracking_uri=server.uri).get_run(run.id)
    assert (stored.info.status, stored.data.tags["note"]) == ("FINISHED", "kept")
    assert values(run, "later") == [1.0]
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("tracking: ")]  # MLflow adds links
    assert ["not recorded" in line for line in said] == [True, False, True, False], said
    assert said[1].endswith("100 kept record(s) sent") and said[3].endswith("2 kept record(s) sent")
