"""A user's mistake is one line on stderr and exit status 2, whatever the job."""

import importlib
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ray_jobs import cli
from recsys.errors import UserError

ROOT = Path(__file__).resolve().parents[3]
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
    "recommend_all",
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


_HTTP = ("http://127.0.0.1:8265", "`ray job submit` goes there, a job that is started here does not; unset it")


@pytest.mark.parametrize(
    ("job", "address", "sentence"),
    [
        *((job, *_HTTP) for job in (*STAGES, "pipeline") if job != "report"),
        ("prepare_data", "ray://127.0.0.1:10001", "jobs do not run through Ray Client; unset it"),
        ("prepare_data", "nonsense", "is not of the form host:port; unset it"),
    ],
)
def test_a_ray_address_that_no_job_can_join(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch, job: str, address: str, sentence: str
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    mistake = command.mistake(job, "--storage", str(tmp_path / "runs"))
    assert mistake.startswith(f"RAY_ADDRESS is {address!r}" if address == "nonsense" else f"RAY_ADDRESS is {address}")
    assert sentence in mistake
    assert "ray job submit" in mistake
    assert not (tmp_path / "runs").exists()


def test_a_cluster_that_does_not_answer(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and does not listen
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{closed.getsockname()[1]}")
        assert "no Ray answers there (Connection refused)" in command.mistake(
            "prepare_data", "--storage", str(tmp_path)
        )
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:99999")
    assert "not of the form host:port" in command.mistake("prepare_data", "--storage", str(tmp_path))


def test_pages_and_files_need_no_cluster(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:8265")
    storage_ = ("--storage", str(tmp_path))
    assert "run evaluate first" in command.mistake("report", *storage_)
    assert "nothing was recorded" in command.mistake("ui", *storage_)
    assert "prepared dataset" in command.mistake("exchange", *storage_, "--export", str(tmp_path / "x"))
    assert "prepared dataset" in command.mistake("exchange", *storage_, "--export-project", str(tmp_path / "x"))
    table = ("data.source=table", f"data.path={tmp_path / 'none.tsv'}")
    assert "none.tsv is not a file" in command.mistake("worth_it", *storage_, *table)
    assert "there is no checkpoint of 'teacher'" in command.mistake("export", *storage_, "--model", "teacher")
    (tmp_path / "new.csv").write_text("id,title\nx,A film\n")
    new = ("--items", str(tmp_path / "new.csv"))
    assert "there is no checkpoint of 'sasrec-distilled'" in command.mistake("add_items", *storage_, *new)
    assert "cannot be read" in command.mistake("add_items", *storage_, "--items", str(tmp_path / "none.csv"))


@pytest.mark.parametrize("job", [*STAGES, "pipeline"])
def test_storage_that_is_a_file(tmp_path: Path, command: Command, job: str) -> None:
    (tmp_path / "file").write_text("")
    for below in ("file", "file/runs"):
        mistake = command.mistake(job, "--storage", str(tmp_path / below))
        assert (
            mistake
            == f"storage {tmp_path / below} cannot be used: {tmp_path}/file is no folder; name another (--storage)"
        )


def test_storage_that_may_not_be_written(tmp_path: Path, command: Command) -> None:
    root = tmp_path / "runs"
    root.mkdir(mode=0o555)
    user = os.geteuid()
    if user == 0:
        tmp_path.chmod(0o755)
        os.seteuid(65534)
    try:
        mistakes = [command.mistake("prepare_data", "--storage", str(root / deeper)) for deeper in ("", "a/b")]
        cli.check_storage(str(root), writes=False)  # what only reads is content
    finally:
        os.seteuid(user)
    # Of folders of another user that may not even be entered, the first one is named.
    assert all(mistake.endswith(" may not be written by this user; name another") for mistake in mistakes), mistakes


@pytest.mark.parametrize(
    ("job", "arguments", "sentence"),
    [
        ("prepare_data", ["--config", str(ROOT)], f"config file {ROOT} is a folder; name a YAML file in it"),
        ("tune", ["--space", str(ROOT)], f"config file {ROOT} is a folder"),
        ("prepare_data", ["--storage", ""], "nothing stands after --storage; give it a value, or leave it out"),
        ("prepare_data", ["--config", ""], "nothing stands after --config"),
        ("distill", ["--student", ""], "nothing stands after --student"),
        ("demo", ["--data", ""], "nothing stands after --data"),
        ("recommend_all", ["--k", "0"], "k: should be greater than or equal to 1"),
        ("recommend_all", ["--model", "../x"], "the model '../x' cannot be a name"),
        ("export", ["--model", "../x"], "the model '../x' cannot be a name"),
        ("distill", ["--student", ".."], "the configuration has no student '..'; it has: none"),
        (
            "pipeline",
            ["students.a b.model.kind=sasrec"],
            "students.a b: 'a b' cannot be a name, for it becomes a folder",
        ),
    ],
)
def test_arguments_that_say_nothing_of_use(command: Command, job: str, arguments: list[str], sentence: str) -> None:
    assert sentence in command.mistake(job, *arguments)


def test_storage_is_taken_as_it_stands(tmp_path: Path, command: Command) -> None:
    root = f"{tmp_path}/run #3"
    assert f"in {root}/demo/dataset" in command.mistake("evaluate", "--storage", root)
    assert f"in {root}/demo/dataset" in command.mistake("evaluate", f"storage={root}")


def test_no_password_is_printed(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    for job, *arguments in (
        ("ui", "tracking.uri=http://user:secret@server"),
        ("evaluate", "--storage", "s3://KEY:a/secret@bucket/x"),
        ("prepare_data", "tracking.uri=http://user:secret@server", "tracking.experimen=x"),
        ("prepare_data", "tracking=http://user:secret@server"),
        ("prepare_data", "data.source=table", "data.path=nowhere://user:secret@host/x.csv"),
        ("prepare_data", "RAY"),
    ):
        if arguments == ["RAY"]:
            monkeypatch.setenv("RAY_ADDRESS", "http://user:secret@head:8265")
            arguments = []
        assert "secret" not in command.mistake(job, *arguments), (job, arguments)


def test_neither_prints_nor_tracebacks_show_a_password(capsys: pytest.CaptureFixture[str]) -> None:
    uri = "http://user:secret@server"

    def work() -> int:
        print("writing to", uri)
        logging.getLogger("a.library").error("cannot reach %s", uri)
        raise RuntimeError(uri)

    with pytest.raises(RuntimeError) as raised:
        cli.run_guarded(work)
    sys.excepthook(raised.type, raised.value, raised.tb)
    said = capsys.readouterr()
    assert "writing to http://***@server" in said.out
    assert "RuntimeError: http://***@server" in said.err
    assert "secret" not in said.out + said.err.replace('user:secret@server"', "")


def test_sigterm_ends_a_job_as_ctrl_c_does(capsys: pytest.CaptureFixture[str]) -> None:
    closed = []

    def work() -> int:
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGTERM)  # a second one interrupts no end
            closed.append(True)
        return 0

    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a Ray that this process has started sets one of its own
    try:
        assert cli.run_guarded(work) == 143
        assert closed == [True]
        assert capsys.readouterr().err == "terminated; run the same command again to continue\n"
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)


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


@pytest.mark.parametrize("module", [*STAGES, "pipeline", "demo", "ui", "add_items", "export"])
def test_help_teaches(command: Command, module: str) -> None:
    status, out, _ = command(module, "--help")
    assert status == 0
    assert f"python -m ray_jobs.{module}" in out


def test_exit_status() -> None:
    def fail(error: BaseException) -> int:
        raise error

    assert cli.run_guarded(lambda: 7) == 7
    assert cli.run_guarded(lambda: fail(UserError("no"))) == 2
    assert cli.run_guarded(lambda: fail(KeyboardInterrupt())) == 130
    with pytest.raises(RuntimeError):
        cli.run_guarded(lambda: fail(RuntimeError("a fault of ours keeps its traceback")))


def test_overrides_may_stand_between_options() -> None:
    settings = cli.load_settings(["name=a", "--storage", "/x", "data.max_history=7"])
    assert (settings.name, settings.layout.root, settings.data.max_history) == ("a", "/x/a", 7)
