"""A user's mistake is one line on stderr and exit status 2, whatever the job."""

import importlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ray_jobs import cli
from recsys import storage
from recsys.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
STAGES = (
    "prepare_data",
    "train_teacher",
    "infer_teacher",
    "distill",
    "tune",
    "evaluate",
    "measure_ab",
    "report",
    "serve",
    "depth",
)


class Command:
    """Calls the `main` of a job as `python -m` does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys

    def __call__(self, job: str, *arguments: str) -> tuple[int, str, str]:
        """Exit status, stdout, stderr."""
        self._monkeypatch.setattr(sys, "argv", [job, *arguments])
        self._capsys.readouterr()
        status = 0
        try:
            importlib.import_module(f"ray_jobs.{job}").main()
        except SystemExit as end:
            status = int(end.code or 0)
        said = self._capsys.readouterr()
        return status, said.out, said.err

    def mistake(self, job: str, *arguments: str) -> str:
        """The one line of a run that fails for a user's mistake."""
        status, _, err = self(job, *arguments)
        assert status == 2, err
        (line,) = err.splitlines()
        assert line.startswith("error: ")
        return line.removeprefix("error: ")


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Command]:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield Command(monkeypatch, capsys)
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_in_a_process_of_its_own(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ray_jobs.prepare_data", "--storage", str(tmp_path / "runs"), "data.protocl=x"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
    )
    assert done.returncode == 2
    assert done.stderr == "error: data.protocl: no such configuration key; did you mean protocol?\n"
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["data.protocl=x"], "data.protocl: no such configuration key; did you mean protocol?"),
        (["--config", "nowhere.yaml"], "config file nowhere.yaml does not exist"),
        (["data.path=/nowhere"], "/nowhere"),
        (["data.source=table"], "data.path"),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, command: Command, arguments: list[str], sentence: str) -> None:
    assert sentence in command.mistake("prepare_data", "--storage", str(tmp_path / "runs"), *arguments)
    assert not (tmp_path / "runs").exists(), "nothing is half-written"


@pytest.mark.parametrize("stage", STAGES[1:])
def test_a_missing_input_is_one_line(tmp_path: Path, command: Command, stage: str) -> None:
    config = str(ROOT / "ray_jobs" / "configs" / "fixture.yaml")
    assert str(tmp_path / "runs") in command.mistake(stage, "--config", config, "--storage", str(tmp_path / "runs"))


def test_storage_in_a_submitted_jobs_own_folder_is_refused(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert "vanishes; name an absolute path or a URI" in command.mistake("prepare_data", "storage=runs")


def test_the_demo_tells_mistakes_before_anything_is_started(tmp_path: Path, command: Command) -> None:
    mistake = command.mistake("demo", "--storage", str(tmp_path), "teacher.training.epoch=1")
    assert mistake == "teacher.training.epoch: no such configuration key; did you mean epochs?"
    assert str(tmp_path) in command.mistake("demo", "--storage", str(tmp_path), "--serve")


def test_the_page_needs_recorded_runs(tmp_path: Path, command: Command) -> None:
    assert "nothing was recorded" in command.mistake("ui", "--storage", str(tmp_path))
    assert "nothing was recorded" in command.mistake("ui", "tracking.uri=none")
    assert "open http://server" in command.mistake("ui", "tracking.uri=http://server")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--space", "nothing"], "there is no space 'nothing': neither a file, nor one of dllm2rec-weights,"),
        (["--student", "nobody"], "the configuration has no student 'nobody'; it has: sasrec,"),
        (["--student", "sasrec"], "parameters.distillation.ranking.weight: student sasrec has no distillation"),
        (["--student", "sasrec", "--trials", "0"], "trials: should be greater than or equal to 1"),
        (["students.sasrec-distilled.model.heads=3"], "width 16 is not divisible by heads 3"),
    ],
)
def test_a_sweep_tells_mistakes_before_anything_is_started(
    tmp_path: Path, command: Command, arguments: list[str], sentence: str
) -> None:
    config = str(ROOT / "ray_jobs" / "configs" / "fixture.yaml")
    assert sentence in command.mistake("tune", "--config", config, "--storage", str(tmp_path / "runs"), *arguments)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("module", [*STAGES, "pipeline", "demo", "ui"])
def test_help_teaches(command: Command, module: str) -> None:
    status, out, _ = command(module, "--help")
    assert status == 0
    assert f"python -m ray_jobs.{module}" in out


def test_exit_status() -> None:
    def fail(error: BaseException) -> int:
        raise error

    assert cli.guarded(lambda: 7) == 7
    assert cli.guarded(lambda: fail(UserError("no"))) == 2
    assert cli.guarded(lambda: fail(KeyboardInterrupt())) == 130
    with pytest.raises(RuntimeError):
        cli.guarded(lambda: fail(RuntimeError("a fault of ours keeps its traceback")))


def test_overrides_may_stand_between_options() -> None:
    settings = cli.load_settings(["name=a", "--storage", "/x", "data.max_history=7"])
    assert (settings.name, settings.layout.root, settings.data.max_history) == ("a", "/x/a", 7)


def test_current_means_complete_and_of_the_same_key(tmp_path: Path) -> None:
    uri = str(tmp_path / "artefact")
    assert not cli.is_current(uri, "a")
    with storage.new_artifact(uri, key="a") as directory:
        (directory / "x").write_text("x")
    assert cli.is_current(uri, "a")
    assert not cli.is_current(uri, "b")
