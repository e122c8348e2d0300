"""Runs in a real SQLite store."""

import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from recsys import tracking
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
