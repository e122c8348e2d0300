"""Runs in a real SQLite store."""

import os
import pickle
import resource
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

from recsys import tracking, tracking_store
from recsys.environment import start_time
from recsys.errors import UserError
from recsys.tracking import PARENT_TAG, TrackingConfig


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One store for the module: making its tables takes seconds."""
    return str(tmp_path_factory.mktemp("mlflow"))


def client(store: str):
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=tracking.describe(TrackingConfig(), store))


def test_a_run_keeps_parameters_metrics_over_time_and_artefacts(store: str, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("<p>")
    with tracking.start_run(
        TrackingConfig(), store, "keeps", "distill", params={"model": {"width": 64}}, tags={"dataset": "abc"}
    ) as run:
        for epoch, value in enumerate([0.1, 0.2]):
            run.log_metrics({"ndcg@10": value, "valid": {"hr@5": 1}, "note": "x", "nan": float("nan")}, step=epoch)
        run.log_artifact(tmp_path / "report.html")
        run.log_artifact(tmp_path, "folder")
    stored = client(store).get_run(run.id)
    assert stored.data.params == {"model.width": "64"}
    assert stored.data.tags["dataset"] == "abc"
    assert stored.info.status == "FINISHED"
    assert stored.data.metrics == {"ndcg_at_10": 0.2, "valid.hr_at_5": 1.0}
    assert [m.value for m in client(store).get_metric_history(run.id, "ndcg_at_10")] == [0.1, 0.2]
    files = {str(p.relative_to(store)) for p in Path(store).rglob("report.html")}
    assert files == {f"artifacts/keeps/{run.id}/artifacts/{name}report.html" for name in ("", "folder/")}


def test_runs_inside_a_run_are_its_children(store: str) -> None:
    with tracking.start_run(TrackingConfig(), store, "nested", "pipeline") as outer:
        with tracking.start_run(TrackingConfig(), store, "nested", "evaluate") as first:
            pass
        with tracking.start_run(TrackingConfig(), store, "nested", "distill", params={"seed": 1}) as second:
            pass
    with tracking.start_run(TrackingConfig(), store, "nested", "alone") as alone:
        pass
    parents = {run.id: client(store).get_run(run.id).data.tags.get(PARENT_TAG) for run in (outer, first, second, alone)}
    assert parents == {outer.id: None, first.id: outer.id, second.id: outer.id, alone.id: None}


def test_a_group_is_recorded_when_a_run_starts_in_it(store: str) -> None:
    with tracking.group(TrackingConfig(), store, "group", "pipeline"):
        pass
    assert client(store).get_experiment_by_name("group") is None
    with tracking.group(TrackingConfig(), store, "group", "pipeline", params={"seed": 1}):
        with tracking.start_run(TrackingConfig(), store, "group", "train") as first:
            pass
        with tracking.start_run(TrackingConfig(), store, "group", "evaluate") as second:
            pass
    parents = {client(store).get_run(run.id).data.tags[PARENT_TAG] for run in (first, second)}
    (parent,) = parents
    stored = client(store).get_run(parent)
    assert (stored.info.run_name, stored.info.status) == ("pipeline", "FINISHED")
    assert stored.data.params == {"seed": "1"}


def test_unfinished_work_is_continued_and_finished_work_is_not(store: str) -> None:
    def work(seed: int, fail: bool = False) -> str:
        with tracking.start_run(TrackingConfig(), store, "resume", "train", params={"seed": seed}) as run:
            if fail:
                raise RuntimeError("killed")
        return run.id

    with pytest.raises(RuntimeError):
        work(1, fail=True)
    (failed,) = client(store).search_runs([client(store).get_experiment_by_name("resume").experiment_id])
    assert failed.info.status == "FAILED"
    other = work(2)
    continued = work(1)
    assert continued == failed.info.run_id != other
    assert client(store).get_run(continued).info.status == "FINISHED"
    assert work(1) != continued


def test_a_handle_logs_from_another_process(store: str, tmp_path: Path) -> None:
    with tracking.start_run(TrackingConfig(), store, "handle", "train") as run:
        (tmp_path / "run").write_bytes(pickle.dumps(run))
        code = "import pickle, sys; pickle.load(open(sys.argv[1], 'rb')).log_metrics({'loss': 0.5}, step=7)"
        subprocess.run([sys.executable, "-c", code, str(tmp_path / "run")], check=True, timeout=60)
    (metric,) = client(store).get_metric_history(run.id, "loss")
    assert (metric.value, metric.step) == (0.5, 7)


def test_what_cannot_be_recorded_is_said_in_one_line(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    with tracking.start_run(TrackingConfig(), store, "lost", "train", params={"a": 1}) as run:
        run.log_params({"a": 2})
        run.log_artifact("/nowhere/model.bin")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("tracking: parameters not recorded in sqlite:")
    assert lines[1].startswith("tracking: artefact model.bin not recorded")
    assert client(store).get_run(run.id).info.status == "FINISHED"


def test_a_store_that_cannot_be_used_stops_the_outermost_run_only(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    broken = TrackingConfig(uri=f"sqlite:///{tmp_path}/file/x/mlflow.db")
    with pytest.raises(UserError, match=r"mend tracking\.uri"), tracking.start_run(broken, store, "p", "train"):
        pass
    with (
        tracking.start_run(TrackingConfig(), store, "p", "pipeline"),
        tracking.start_run(broken, store, "p", "train") as run,
    ):
        run.log_metrics({"loss": 1.0})
    assert run.id == ""
    assert "tracking: train not recorded in sqlite:" in capsys.readouterr().out


def test_none_records_nothing(tmp_path: Path) -> None:
    with tracking.start_run(TrackingConfig(uri="none"), "s3://bucket/mlflow", "p", "train") as run:
        run.log_metrics({"loss": 1.0})
        run.log_artifact(tmp_path)
    assert run.id == ""


def test_remote_storage_needs_a_server(tmp_path: Path) -> None:
    remote = "s3://bucket/runs/mlflow"
    with (
        pytest.raises(UserError, match=r"set tracking\.uri to an MLflow server"),
        tracking.start_run(TrackingConfig(), remote, "p", "train"),
    ):
        pass


def test_a_child_that_others_work_on(store: str) -> None:
    config = TrackingConfig()
    with tracking.start_run(config, store, "children", "sweep") as begun:
        pass
    with tracking.start_run(config, store, "children", "gone", id="0" * 32) as other:
        assert other.id != "0" * 32, "a run that is not there is begun anew"
    with tracking.start_run(config, store, "children", "sweep", id=begun.id) as sweep:
        assert sweep == begun and client(store).get_run(sweep.id).info.status == "RUNNING"
        child = tracking.start_child(config, store, "children", "trial 0", parent=sweep, params={"model.width": 8})
        assert tracking.start_child(config, store, "children", "trial 0", parent=sweep, id=child.id) == child
        child.log_curve([{"epoch": 1, "valid_ndcg@10": 0.1, "nan": float("nan")}, {"epoch": 2, "valid_ndcg@10": 0.3}])
        child.finish("FAILED")
    stored = client(store).get_run(child.id)
    assert stored.info.status == "FAILED"
    assert stored.data.tags[PARENT_TAG] == sweep.id
    assert set(stored.data.metrics) == {"valid_ndcg_at_10"}
    history = client(store).get_metric_history(child.id, "valid_ndcg_at_10")
    assert [(point.step, point.value) for point in history] == [(1, 0.1), (2, 0.3)]
    nowhere = tracking.start_child(TrackingConfig(uri="none"), store, "children", "trial", parent=tracking.Run())
    nowhere.log_curve([{"epoch": 1, "loss": 1.0}])
    nowhere.finish("FINISHED")


def test_a_checkpoint_is_one_version_of_its_model(store: str, tmp_path: Path) -> None:
    file, id = tmp_path / "config.json", ""
    for content in ("one", "one", "another", "one"):
        with tracking.start_run(TrackingConfig(), store, "models", "sweep", id=id) as run:
            file.write_text(content)
            run.register(tmp_path, "p.small-tuned", content)
            run.register(tmp_path, "p.small-tuned", content)
            id = run.id
    versions = client(store).search_model_versions("name = 'p.small-tuned'")
    assert [version.tags["checkpoint"] for version in sorted(versions, key=lambda v: int(v.version))] == [
        "one",
        "another",
    ]
    for version in versions:
        copied = client(store).download_artifacts(run.id, version.source.rpartition("/")[2], str(tmp_path))
        assert (Path(copied) / "config.json").read_text() == version.tags["checkpoint"]


@pytest.fixture
def copied(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A store of this test's own, which is not waited for long."""
    with tracking.start_run(TrackingConfig(), store, "copied", "before"):
        pass
    shutil.copy(f"{store}/mlflow.db", tmp_path / "mlflow.db")
    monkeypatch.setattr(tracking_store.check, "__defaults__", (0.1,))
    return str(tmp_path)


@contextmanager
def locked(folder: str) -> Iterator[None]:
    """Another program holds the store."""
    with closing(sqlite3.connect(f"{folder}/mlflow.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield


def status(folder: str, id: str) -> str:
    return client(folder).get_run(id).info.status


def test_a_store_that_is_locked_or_damaged_at_the_start_is_one_line(copied: str) -> None:
    def mistake() -> str:
        with pytest.raises(UserError) as caught, tracking.start_run(TrackingConfig(), copied, "p", "train"):
            pass
        assert "\n" not in str(caught.value)
        return str(caught.value)

    with locked(copied):
        assert "mlflow.db cannot be used: mlflow.db: database is locked; mend tracking.uri" in mistake()
    tracking_store.client.cache_clear()
    Path(copied, "mlflow.db").write_bytes(b"no database at all, but some text that is long enough" * 100)
    begun = time.monotonic()
    assert "file is not a database; mend tracking.uri" in mistake()
    assert time.monotonic() - begun < 60, "MLflow itself tries for 100 s"


def test_a_store_that_is_locked_on_the_way_is_said_once_and_asked_again_later(
    copied: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with tracking.start_run(TrackingConfig(), copied, "p", "train") as run:
        with locked(copied):
            for step in range(20):
                run.log_metrics({"loss": 1.0}, step=step)
            with tracking.start_run(TrackingConfig(), copied, "p", "inner") as inner:
                inner.log_metrics({"loss": 1.0})
        run.log_metrics({"loss": 2.0}, step=20)  # too soon
        monkeypatch.setattr(time, "monotonic", lambda now=time.monotonic: now() + 61)
        run.log_metrics({"loss": 3.0}, step=21)
    said = capsys.readouterr()
    first, last = said.out.splitlines()
    assert first.startswith("tracking: loss of step 0 not recorded in sqlite:")
    assert first.endswith("database is locked; going on without it, tried again every minute")
    assert last.endswith("records again; 21 kept record(s) sent")
    assert said.err == ""
    history = client(copied).get_metric_history(run.id, "loss")
    assert [(m.step, m.value) for m in history] == [(n, max(1.0, n - 18.0)) for n in range(22)]
    assert status(copied, run.id) == "FINISHED"


def test_what_never_reaches_the_store_is_counted(copied: str, capsys: pytest.CaptureFixture[str]) -> None:
    with ExitStack() as away:
        with tracking.start_run(TrackingConfig(), copied, "p", "train") as run:
            away.enter_context(locked(copied))
            for step in range(20):
                run.log_metrics({"loss": 1.0}, step=step)
            run.log_artifact(copied)
        first, last = capsys.readouterr().out.splitlines()
    assert first.startswith("tracking: loss of step 0 not recorded in sqlite:")
    assert last.startswith("tracking: 21 record(s) never reached sqlite:"), "the end of the run among them"
    tracking_store.note_answer(tracking.describe(TrackingConfig(), copied), 0)


def test_a_full_disk_is_said_once(copied: str, capsys: pytest.CaptureFixture[str]) -> None:
    """By a limit of the process on the size of files."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with tracking.start_run(TrackingConfig(), copied, "p", "train") as run:
        resource.setrlimit(resource.RLIMIT_FSIZE, (Path(copied, "mlflow.db").stat().st_size, before[1]))
        try:
            for step in range(30):
                run.log_params({f"{step}.{number}": "x" * 500 for number in range(50)})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    said = capsys.readouterr()
    first, last = said.out.splitlines()
    assert first.startswith("tracking: parameters not recorded in sqlite:")
    assert first.endswith("going on without it, tried again every minute")
    assert last.endswith("kept record(s) sent"), "the end of the run is recorded, and before it the rest"
    assert said.err == ""
    assert status(copied, run.id) == "FINISHED"


@pytest.mark.parametrize("end", [KeyboardInterrupt(), SystemExit(0), SystemExit(143)])
def test_a_run_that_is_ended_from_outside_is_killed(store: str, end: BaseException) -> None:
    ids = []
    with (
        pytest.raises(type(end)),
        tracking.group(TrackingConfig(), store, "killed", "pipeline"),
        tracking.start_run(TrackingConfig(), store, "killed", "train") as run,
    ):
        ids += [run.id, client(store).get_run(run.id).data.tags[PARENT_TAG]]
        raise end
    assert [status(store, id) for id in ids] == ["KILLED", "KILLED"]


def test_what_a_killed_process_left_is_closed_or_continued_and_what_lives_is_left_alone(store: str) -> None:
    with subprocess.Popen(["sleep", "600"]) as gone, subprocess.Popen(["sleep", "600"]) as alive:
        try:
            ids = {}
            for step, process in (("killed", gone), ("continued", gone), ("alive", alive)):
                with tracking.start_run(TrackingConfig(), store, "left", step) as run:
                    ids[step] = run.id
                client(store).update_run(run.id, status="RUNNING")
                owner = f"{tracking_store.machine()} {process.pid} {start_time(process.pid)}"
                client(store).set_tag(run.id, tracking_store.OWNER_TAG, owner)
            gone.kill()
            gone.wait()
            with tracking.start_run(TrackingConfig(), store, "left", "continued") as run:
                assert run.id == ids["continued"]
                assert [status(store, ids[step]) for step in ("killed", "continued")] == ["KILLED", "RUNNING"]
                with tracking.start_run(TrackingConfig(), store, "left", "alive") as other:
                    assert other.id != ids["alive"], "two processes do not write one run"
            assert status(store, ids["alive"]) == "RUNNING"
        finally:
            gone.kill()
            alive.kill()


def test_of_another_machines_runs_nothing_is_known(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with tracking.start_run(TrackingConfig(), store, "far", "train") as run:
        for machine, expected in (("elsewhere boot 1", None), (None, True)):
            stored = client(store).get_run(run.id)
            if machine:
                stored.data.tags[tracking_store.OWNER_TAG] = f"{machine} 1 1"
            assert tracking_store.lives(stored) is expected
        host, boot, space = tracking_store.machine().split(" ")
        for owner, expected in (
            (f"{host} {boot} {space} {os.getpid()} 1", False),
            (f"{host} before {space} {os.getpid()} 1", False),
            (f"{host} {boot} other {os.getpid()} 1", None),
            ("", None),
        ):
            stored.data.tags[tracking_store.OWNER_TAG] = owner
            assert tracking_store.lives(stored) is expected, owner


def test_a_store_that_another_process_made_meanwhile_is_kept(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, link = tmp_path / "a #1" / "mlflow.db", os.link
    tracking_store.client(f"sqlite:///{store}/mlflow.db")  # the other process's, were this the first test here

    def late(source: Path, target: Path) -> None:
        with closing(sqlite3.connect(source)) as made:
            assert made.execute("SELECT count(*) FROM alembic_version").fetchone() == (1,), "all tables are there"
        assert not target.exists(), "nobody sees a store that is half made"
        shutil.copy(f"{store}/mlflow.db", target)
        link(source, target)

    monkeypatch.setattr(os, "link", late)
    tracking_store.client(f"sqlite:///{file}")
    assert file.read_bytes() == Path(store, "mlflow.db").read_bytes()
    assert [path.name for path in file.parent.iterdir()] == ["mlflow.db"]


_WORK = """
import signal, sys
from recsys import tracking
from recsys.tracking import TrackingConfig
with tracking.start_run(TrackingConfig(), sys.argv[1], "p", sys.argv[2]) as run:
    print(run.id, flush=True)
    if sys.argv[2] == "held":
        signal.pause()
"""


@pytest.mark.full
def test_a_job_that_was_killed_is_closed_by_the_next(store: str) -> None:
    with subprocess.Popen([sys.executable, "-c", _WORK, store, "held"], stdout=subprocess.PIPE, text=True) as held:
        assert held.stdout is not None
        id = held.stdout.readline().strip()
        assert status(store, id) == "RUNNING"
        held.kill()
    with tracking.start_run(TrackingConfig(), store, "p", "next"):
        assert status(store, id) == "KILLED"


@pytest.mark.full
@pytest.mark.parametrize("attempt", range(3))
def test_two_processes_start_on_a_store_that_is_not_there(tmp_path: Path, attempt: int) -> None:
    folder = str(tmp_path / "run #3 100%" / "mlflow")
    both = [
        # MLflow's own lock is a file of the temporary folder, which is another one for every local Ray.
        subprocess.Popen(
            [sys.executable, "-c", _WORK, folder, step],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "TMPDIR": str(tmp_path)},
        )
        for step in ("one", "two")
    ]
    ids = [process.communicate(timeout=200)[0].strip() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert [status(folder, id) for id in ids] == ["FINISHED", "FINISHED"]


def test_passwords_do_not_reach_the_store(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    uri = "http://user:secret@server/x"
    with tracking.start_run(
        TrackingConfig(), store, "secrets", "train", params={"tracking": {"uri": uri}}, tags={"checkpoint": uri}
    ) as run:
        run.set_tags({"later": uri})
        run.log_params({"tracking.uri": "http://other:secret@server"})  # refused: it has another value
    data = client(store).get_run(run.id).data
    assert data.params == {"tracking.uri": "http://***@server/x"}
    assert data.tags["checkpoint"] == data.tags["later"] == "http://***@server/x"
    assert "secret" not in repr((run, data.tags))
    assert "secret" not in capsys.readouterr().out


def test_a_server_that_does_not_answer_shows_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    config = TrackingConfig(uri="http://user:secret@127.0.0.1:9")
    with pytest.raises(UserError) as caught, tracking.start_run(config, "", "p", "train"):
        pass
    assert "http://***@127.0.0.1:9 cannot be used" in str(caught.value)
    assert "secret" not in str(caught.value)
