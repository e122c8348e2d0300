"""Sweeps on the shared Ray, on the tiny data set with a made-up teacher's signals."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
import yaml
from safetensors.torch import load_file

from ray_jobs.on_ray import OnRay
from ray_jobs.sweeps import search as sweeps
from recsys import storage, tracking
from recsys.checkpoint import save_checkpoint
from recsys.config import from_dict, load_config, to_dict
from recsys.data.config import DataConfig
from recsys.data.prepare import prepare
from recsys.data.prepared import PreparedDataset
from recsys.errors import UserError
from recsys.evaluation import results
from recsys.settings import Settings
from recsys.signals.signals import SignalsMeta
from recsys.signals.writer import ShardPlan, SignalsWriter
from recsys.stages import student as student_stage
from recsys.stages.sweep import Sweep
from recsys.teachers.config import E4SRecConfig
from recsys.teachers.e4srec import E4SRec
from recsys.tracking import PARENT_TAG
from recsys.tuning.config import SweepConfig
from recsys.tuning.records import TrialStore
from tests.conftest import MARKER
from tests.integration.commands import processes, ray_nodes

pytestmark = pytest.mark.ray
EPOCHS, TRIALS, K = 6, 8, 5


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, fixture_data: Path) -> Settings:
    """A project with a dataset, random signals, and a student that trains in a second."""
    student = {
        "model": {"kind": "sasrec", "width": 8, "blocks": 1, "heads": 1, "max_positions": 10},
        "distillation": {"ranking": {"k": K, "form": "softmax"}},
        "training": {"epochs": EPOCHS, "patience": 0, "learning_rate": 0.01},
    }
    made = from_dict(
        Settings, {"name": "p", "storage": str(tmp_path_factory.mktemp("sweeps")), "students": {"small": student}}
    )
    dataset = prepare(DataConfig(path=str(fixture_data), max_history=10), "tiny")
    dataset.write(made.layout.dataset)
    generator = np.random.default_rng(0)
    plan = ShardPlan.of(dataset, ("train",), 10**6)
    count = len(plan.rows)
    writer = SignalsWriter(made.layout.signals, key="k", k=K)
    items = np.stack([generator.choice(dataset.num_items, K, replace=False) + 1 for _ in range(count)])
    scores = -np.sort(generator.random((count, K)), axis=1)
    distance = generator.random(count)
    writer.write_shard(
        0, plan.rows, items.astype(np.int32), scores.astype(np.float32), distance.astype(np.float32), seconds=1.0
    )
    meta = SignalsMeta(teacher="random", checkpoint_hash="c", fingerprint=dataset.fingerprint, k=K)
    writer.finalise(plan, meta, torch.randn(dataset.num_items + 1, 12), None)
    return made


def sweep(parameters: dict[str, Any], **values: Any) -> SweepConfig:
    standard = {
        "student": "small",
        "trials": TRIALS,
        "concurrent": 2,
        "stopping": {"kind": "asha", "grace": 1, "reduction": 2},
    }
    return from_dict(SweepConfig, {**standard, "parameters": parameters, **values})


KILLED = sweep(
    {"distillation.ranking.weight": {"kind": "loguniform", "low": 0.01, "high": 1}},
    search="random",
    stopping={"kind": "none"},
)


def children(settings: Settings, kind: str) -> list[Any]:
    """The MLflow runs of a sweep's trials."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=tracking.describe(settings.tracking, settings.layout.mlflow))
    experiment = client.get_experiment_by_name(settings.name)
    assert experiment is not None
    parents = client.search_runs([experiment.experiment_id], f"attributes.run_name = 'sweep {kind}'")
    assert len(parents) == 1, "one run for the sweep, however often it was interrupted"
    assert parents[0].info.status == "FINISHED"
    return list(client.search_runs([experiment.experiment_id], f"tags.`{PARENT_TAG}` = '{parents[0].info.run_id}'"))


def free_cpus() -> float:
    deadline = time.monotonic() + 15
    while ray.available_resources().get("CPU", 0) < 4 and time.monotonic() < deadline:
        time.sleep(0.2)
    return float(ray.available_resources().get("CPU", 0))


def test_a_sweep_with_stopping_and_a_trial_that_diverges(
    ray_session: None, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    config = sweep(
        {
            "distillation.ranking.weight": {"kind": "loguniform", "low": 0.01, "high": 1},
            "model.blocks": {"kind": "int", "low": 1, "high": 2},
            "training.learning_rate": {"kind": "choice", "values": [0.001, 0.01, 1.0e30]},
        },
        search="random",
    )
    records = sweeps.run(settings, "weights", config)
    printed = capsys.readouterr().out
    assert sorted(record.number for record in records) == list(range(TRIALS))
    by_status = {status: [r for r in records if r.status == status] for status in ("finished", "stopped", "failed")}
    assert all(by_status.values()), "some of each"
    for record in records:
        assert (record.status == "failed") == (record.parameters["training.learning_rate"] == 1.0e30)
        assert record.epochs == EPOCHS or record.status != "finished"
    assert all("diverged" in record.reason and record.quality is None for record in by_status["failed"])
    assert all(0 < record.epochs < EPOCHS for record in by_status["stopped"])
    assert sum(record.epochs for record in records) < TRIALS * EPOCHS
    assert len({record.worker for record in records}) < TRIALS, "processes are used again"
    assert records[0].parameters["training.learning_rate"] == 0.01, "the student as it is comes first"
    assert free_cpus() == 4, "what was stopped gives its place back"

    sweep_folder = settings.layout.sweep("weights-small")
    runs = children(settings, "weights-small")
    assert sorted(run.info.run_name for run in runs) == sorted(f"trial {n}" for n in range(TRIALS))
    by_id = {run.info.run_id: run for run in runs}
    for record in records:
        run = by_id[record.run]
        assert run.info.status == ("FAILED" if record.status == "failed" else "FINISHED")
        assert run.data.tags["status"] == record.status
        assert float(run.data.params["distillation.ranking.weight"]) == record.parameters["distillation.ranking.weight"]
        kept = Path(sweep_folder, "trials", f"{record.digest}.safetensors")
        assert kept.exists() == (record.quality is not None)
        if record.quality is not None:
            assert run.data.tags["checkpoint"] == str(kept)
            assert Path(run.info.artifact_uri.removeprefix("file://"), "checkpoint", kept.name).exists()
            assert run.data.metrics["best.ndcg_at_10"] == pytest.approx(record.quality)
            assert run.data.metrics["valid_ndcg_at_10"] == pytest.approx(record.curve[-1]["valid_ndcg@10"])

    folder = Path(sweep_folder)
    assert {p.name for p in (folder / "report").iterdir()} >= {"sweep.html", "curves.png", "parallel_coordinates.png"}
    assert not (folder / "tune").exists()
    winner = max((r for r in records if r.quality is not None), key=lambda r: r.quality)
    assert f"winner: trial {winner.number}" in printed
    found = load_config(Settings, folder / "winner.yaml")
    assert found.layout.root == settings.layout.root
    assert found.students["small"] == settings.students["small"]
    assert found.students["small-tuned"].model.blocks == winner.parameters["model.blocks"]
    as_it_is = records[0].number == winner.number
    assert (student_stage.key(found, "small-tuned") == student_stage.key(found, "small")) == as_it_is

    # Once more: kept. Of another space: refused. With more trials: those alone.
    before = {p.name: p.stat().st_mtime_ns for p in (folder / "trials").iterdir()}
    assert sweeps.run(settings, "weights", config) == records
    assert "all 8 trials are there, kept" in capsys.readouterr().out
    other = sweep({"model.blocks": {"kind": "int", "low": 1, "high": 2}})
    with pytest.raises(UserError, match=r"made with another space.*--force"):
        sweeps.run(settings, "weights", other)
    more = from_dict(SweepConfig, {**to_dict(config), "trials": TRIALS + 1})
    with pytest.raises(UserError, match=r"8 of 9 trials ended.*--resume"):
        sweeps.run(settings, "weights", more)
    assert sweeps.run(settings, "weights", more, resume=True)[:TRIALS] == records
    assert len(children(settings, "weights-small")) == TRIALS + 1
    assert before.items() <= {p.name: p.stat().st_mtime_ns for p in (folder / "trials").iterdir()}.items()


@pytest.mark.full
def test_a_trial_learns_what_the_same_student_learns_alone(ray_session: None, settings: Settings) -> None:
    from recsys.training.loop import train

    torch.set_num_threads(1)
    config = sweep({"model.blocks": {"kind": "int", "low": 1, "high": 2}}, search="grid", stopping={"kind": "none"})
    for record in sweeps.run(settings, "depths", config):
        student = Sweep(settings, "depths", config).candidate(record.parameters)
        objective, dataset, training = student_stage.build(student, settings.layout)
        alone = train(objective, dataset, training, report=lambda epoch: None).progress
        assert record.quality == pytest.approx(alone.best["ndcg@10"])
        assert record.best_epoch == alone.best_epoch
        assert [e["loss"] for e in record.curve] == pytest.approx([e["loss"] for e in alone.curve], rel=1e-5)


@pytest.mark.full
def test_the_winner_is_trained_anew_tested_and_registered(
    ray_session: None, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    from mlflow import MlflowClient

    config = sweep(
        {"model.dropout": {"kind": "choice", "values": [0.1, 0.3]}}, search="grid", epochs=2, concurrent=1, retrain=2
    )
    sweeps.run(settings, "winner", config)
    printed = capsys.readouterr().out
    folder = Path(settings.layout.sweep("winner-small"))
    found = load_config(Settings, folder / "winner.yaml")
    tested = [results.read_result(found.layout.results, name) for name in ("small-tuned", "small-tuned-seed1")]
    values = [result.metrics["masked"]["ndcg@10"] for result in tested if result is not None]
    assert [result.seed for result in tested if result is not None] == [0, 1]
    assert f"test, 2 seed(s): NDCG@10 {np.mean(values):.4f} (sd {np.std(values, ddof=1):.4f})" in printed
    assert found.students["small-tuned"].training.epochs == EPOCHS, "the student's own, not those of a trial"
    report = (folder / "report" / "sweep.html").read_text()
    assert f"tested once: NDCG@10 {np.mean(values):.4f}" in report

    # `distill` takes the file as it is, and finds that the winner is trained; nothing is tested or registered twice.
    assert student_stage.make(found, "small-tuned", executor=OnRay()) == {}
    assert "student small-tuned: unchanged, kept" in capsys.readouterr().out
    sweeps.run(settings, "winner", config)
    assert "evaluate" not in capsys.readouterr().out
    client = MlflowClient(tracking_uri=tracking.describe(settings.tracking, settings.layout.mlflow))
    (version,) = client.search_model_versions("name = 'p.small-tuned'")
    checkpoint = storage.read_manifest(found.layout.student("small-tuned"))
    assert checkpoint is not None and version.tags["checkpoint"] == checkpoint.content_hash
    assert version.run_id == storage.read_json(str(folder / "run.json"))["id"]
    assert client.get_run(version.run_id).data.metrics["test.ndcg_at_10"] == pytest.approx(np.mean(values))


def test_what_cannot_be_built_is_said_before_anything_starts(settings: Settings) -> None:
    config = sweep({"distillation.ranking.k": {"kind": "int", "low": K, "high": 50}})
    with pytest.raises(UserError, match=r"no student .* with distillation.ranking.k=50 .* hold the top 5"):
        sweeps.run(settings, "k", config)
    assert not ray.is_initialized() or free_cpus() == 4


@pytest.fixture
def cut(settings: Settings) -> Settings:
    """The same data under a teacher of random weights, and a student cut from it."""
    slmrec = {
        "model": {"kind": "slmrec", "layers": 1},
        "alignment": {"blocks": 1},
        "training": {"epochs": 1, "patience": 0},
    }
    made = from_dict(
        Settings, {"name": "random-teacher", "storage": settings.layout.storage_root, "students": {"cut": slmrec}}
    )
    dataset = PreparedDataset.load(settings.layout.dataset)
    dataset.write(made.layout.dataset)
    teacher = E4SRec.build(
        E4SRecConfig(kind="e4srec", width=8, heads=1, layers=4), torch.randn(dataset.num_items + 1, 8)
    )
    save_checkpoint(made.layout.teacher, teacher, dataset)
    return made


def test_depths_of_a_cut_teacher(ray_session: None, cut: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    config = sweep({"model.layers": {"kind": "choice", "values": [1, 2]}}, student="cut", concurrent=1, trials=3)
    shallow, deep = sweeps.run(cut, "depth", config)
    assert (shallow.status, deep.status) == ("finished", "finished") and shallow.parameters == {"model.layers": 1}
    assert shallow.size and deep.size and shallow.size < deep.size
    assert "cosine_alignment_loss" in shallow.curve[0], "taught by the teacher"
    assert "the space holds no further configuration" in capsys.readouterr().out
    assert sweeps.run(cut, "depth", config) == [shallow, deep]
    assert "all 2 trials are there, kept" in capsys.readouterr().out
    more = from_dict(SweepConfig, {**to_dict(config), "trials": 4})
    assert sweeps.run(cut, "depth", more, resume=True) == [shallow, deep] == sweeps.run(cut, "depth", more)
    with pytest.raises(UserError, match=r"no student of the space with model.layers=9 can be built"):
        sweeps.run(cut, "deeper", sweep({"model.layers": {"kind": "choice", "values": [2, 9]}}, student="cut"))


@pytest.fixture
def driver(ray_session: None, settings: Settings, tmp_path: Path) -> Iterator[Any]:
    """Starts `python -m ray_jobs.tune` on the shared Ray."""
    space = tmp_path / "killed.yaml"
    space.write_text(yaml.safe_dump(to_dict(KILLED)))
    file = tmp_path / "project.yaml"
    file.write_text(yaml.safe_dump(to_dict(settings)))
    address = ray.get_runtime_context().gcs_address
    environment = {**os.environ, "RAY_ADDRESS": address, "RAY_LOG_TO_DRIVER": "0"}
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "ray_jobs.tune", "--config", str(file), "--space", str(space), *arguments]
        with (tmp_path / f"log-{len(started)}").open("w") as log:
            started.append(subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT, text=True))
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
            process.wait()


@pytest.mark.full
@pytest.mark.faults
def test_a_killed_sweep_continues_without_repeating(driver: Any, settings: Settings, tmp_path: Path) -> None:
    folder = Path(settings.layout.sweep("killed-small"))
    store = TrialStore(str(folder / "trials"))
    first = driver()
    deadline = time.monotonic() + 120
    while len(store.records()) < 3:
        assert first.poll() is None and time.monotonic() < deadline, (tmp_path / "log-0").read_text()
        time.sleep(0.05)
    first.send_signal(signal.SIGKILL)
    first.wait()
    ended = {record.digest: record for record in store.records()}
    begun = {started.digest: started for started in store.list_interrupted()}
    assert 3 <= len(ended) < TRIALS and begun

    with pytest.raises(UserError, match=rf"{len(ended)} of {TRIALS} trials ended\); continue with --resume"):
        sweeps.run(settings, "killed", KILLED)
    assert driver("--resume").wait(240) == 0, (tmp_path / "log-1").read_text()
    records = {record.digest: record for record in store.records()}
    assert sorted(record.number for record in records.values()) == list(range(TRIALS)), "all are accounted for"
    assert {digest: records[digest] for digest in ended} == ended, "what had ended was not touched"
    for digest, started in begun.items():
        assert records[digest].number == started.number and (not started.run or records[digest].run == started.run)
    runs = children(settings, "killed-small")
    assert sorted(run.info.run_name for run in runs) == sorted(f"trial {n}" for n in range(TRIALS))
    assert all(run.info.status == "FINISHED" for run in runs)
    assert free_cpus() == 4


@pytest.mark.full
def test_trials_of_two_workers(ray_session: None, settings: Settings) -> None:
    from recsys.training.loop import train

    torch.set_num_threads(1)
    config = sweep(
        {
            "model.dropout": {"kind": "choice", "values": [0.0]},
            "training.learning_rate": {"kind": "choice", "values": [0.01, 1.0e-6, 1.0e30]},
        },
        search="grid",
        workers=2,
        concurrent=1,
    )
    finished, stopped, failed = sweeps.run(settings, "workers", config)
    assert (finished.status, stopped.status, failed.status) == ("finished", "stopped", "failed")
    assert "diverged" in failed.reason and 0 < stopped.epochs < EPOCHS
    student = Sweep(settings, "workers", config).candidate(finished.parameters)
    objective, dataset, training = student_stage.build(student, settings.layout)
    alone = train(objective, dataset, training, report=lambda epoch: None).progress
    assert finished.epochs == EPOCHS and finished.quality == pytest.approx(alone.best["ndcg@10"], abs=0.01)
    assert finished.size and finished.latency_ms
    kept = Path(settings.layout.sweep("workers-small"), "trials", f"{finished.digest}.safetensors")
    assert load_file(kept).keys() == objective.model.export_state().keys()
    assert [e["loss"] for e in finished.curve] == pytest.approx([e["loss"] for e in alone.curve], rel=1e-3)
    assert not Path(settings.layout.sweep("workers-small"), "tune").exists()
    assert free_cpus() == 4, "what was stopped gives its workers' places back"


@pytest.mark.full
def test_the_time_cuts_a_trial_that_starts_again(
    ray_session: None, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    student = to_dict(settings.students["small"])
    student["training"]["epochs"] = 10**5
    made = from_dict(Settings, {**to_dict(settings), "students": {"small": student}})
    space = {"model.dropout": {"kind": "choice", "values": [0.1, 0.3]}}
    config = sweep(space, search="grid", stopping={"kind": "none"}, minutes=0.6)
    before = sweeps.run(made, "cut", config)
    assert [r.status for r in before] == ["cut", "cut"] and any(r.quality is not None for r in before)
    assert "the time was up; continue with --resume" in capsys.readouterr().out
    assert free_cpus() == 4
    with pytest.raises(UserError, match=r"0 of 2 trials ended\); continue with --resume"):
        sweeps.run(made, "cut", config)
    after = sweeps.run(made, "cut", config, resume=True)
    assert [(r.number, r.run, r.parameters) for r in after] == [(r.number, r.run, r.parameters) for r in before]
    assert after != before, "they were trained again"
    assert [run.info.status for run in children(made, "cut-small")] == ["KILLED", "KILLED"]


@pytest.mark.full
def test_a_population(ray_session: None, settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    config = sweep(
        {
            "training.learning_rate": {"kind": "loguniform", "low": 1.0e-6, "high": 0.02},
            "distillation.ranking.weight": {"kind": "uniform", "low": 0, "high": 1},
            "model.blocks": {"kind": "int", "low": 1, "high": 2},
        },
        search="population",
        trials=4,
        stopping={"kind": "none"},
    )
    records = sweeps.run(settings, "population", config)
    printed = capsys.readouterr().out
    assert [r.number for r in records] == [0, 1, 2, 3] and all(r.status == "finished" for r in records)
    assert all([e["epoch"] for e in r.curve] == list(range(1, EPOCHS + 1)) for r in records)
    changes = [(r, change) for r in records for change in r.changes]
    assert [sorted(c["epoch"] for _, c in changes)] == [[2, 4]], "one of four after each generation but the last"
    for member, change in changes:
        donor, after = records[change["from"]], change["epoch"]
        now = [record.curve[after - 1]["valid_ndcg@10"] for record in records]
        assert now[member.number] == min(now) and now[donor.number] == max(now)
        before = [c["parameters"] for c in donor.changes if c["epoch"] < after]
        theirs = before[-1] if before else donor.parameters
        assert change["parameters"]["model.blocks"] == theirs["model.blocks"], "goes with the weights"
        assert 1.0e-6 <= change["parameters"]["training.learning_rate"] <= 0.02
        assert change["parameters"] != theirs
        assert f"trial {member.number} goes on from trial {donor.number} after epoch {after}" in printed
    assert len({record.worker for record in records}) <= 2 + len(changes), "two at a time"
    found = load_config(Settings, Path(settings.layout.sweep("population-small"), "winner.yaml"))
    winner = max(records, key=lambda r: r.quality)
    assert found.students["small-tuned"].training.learning_rate == winner.chosen["training.learning_rate"]
    assert len(children(settings, "population-small")) == 4
    assert free_cpus() == 4


@pytest.mark.full
@pytest.mark.faults
def test_trials_that_lose_their_process_or_want_too_much_memory(
    ray_session: None, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    """The process of trial 0 is killed twice; trial 1 asks for terabytes; trial 2 is as usual."""
    few, many = 1, 10**12
    student = {**to_dict(settings.students["small"]), "loss": {"kind": "bce"}, "distillation": None}
    student["training"]["epochs"] = 100
    made = from_dict(Settings, {**to_dict(settings), "students": {"bce": student}})
    config = sweep(
        {"loss.negatives": {"kind": "choice", "values": [few, many, 2]}},
        student="bce",
        search="grid",
        stopping={"kind": "none"},
        concurrent=1,
        restarts=1,
    )
    store = Sweep(made, "lost", config).store
    over, killed = threading.Event(), []

    def kill() -> None:
        while not over.wait(0.05) and len(killed) < 2:
            for process in trial_processes():
                if process not in killed and store.list_interrupted():
                    over.wait(0.5)  # amid an epoch
                    os.kill(process, signal.SIGKILL)
                    killed.append(process)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        records = sweeps.run(made, "lost", config)
    finally:
        over.set()
        killer.join()
    assert len(killed) == 2
    assert [(r.status, r.restarts) for r in records] == [("failed", 1), ("failed", 0), ("finished", 0)]
    assert records[0].reason.startswith("its process was killed or crashed")
    assert "memory" in records[1].reason and records[1].quality is None
    assert records[2].epochs == 100
    printed = capsys.readouterr().out
    assert "trial 0: its process was killed or crashed" in printed and "winner: trial 2" in printed
    assert [run.info.status for run in sorted(children(made, "lost-bce"), key=lambda run: run.info.run_name)] == [
        "FAILED",
        "FAILED",
        "FINISHED",
    ]
    assert free_cpus() == 4


@pytest.mark.full
@pytest.mark.faults
def test_a_lost_node_costs_the_trials_on_it(settings: Settings, tmp_path: Path) -> None:
    student, many = to_dict(settings.students["small"]), 800  # some are left when the sweep first tells of them
    student["training"]["epochs"] = many
    made = from_dict(Settings, {**to_dict(settings), "students": {"small": student}})
    weights = {"distillation.ranking.weight": {"kind": "choice", "values": [0.01, 0.1, 1.0]}}
    config = sweep(weights, search="grid", stopping={"kind": "none"})
    (tmp_path / "project.yaml").write_text(yaml.safe_dump(to_dict(made)))
    (tmp_path / "node.yaml").write_text(yaml.safe_dump(to_dict(config)))
    store, log = Sweep(made, "node", config).store, tmp_path / "log"
    node = {"num_cpus": 1, "object_store_memory": 150_000_000}
    with ray_nodes("node-", **node) as cluster:
        lost = cluster.add_node(**node)
        command = [sys.executable, "-m", "ray_jobs.tune", "--config", str(tmp_path / "project.yaml")]
        with (
            log.open("w") as file,
            subprocess.Popen(
                [*command, "--space", str(tmp_path / "node.yaml")],
                env={**os.environ, "RAY_ADDRESS": cluster.address},
                stdout=file,
                stderr=subprocess.STDOUT,
            ) as driver,
        ):
            try:
                deadline = time.monotonic() + 120
                while not re.search(r"trial [01] epoch [1-9].*trial [01] epoch [1-9]", log.read_text()):
                    assert driver.poll() is None and time.monotonic() < deadline, log.read_text()
                    time.sleep(0.2)
                cluster.remove_node(lost, allow_graceful=False)
                assert driver.wait(240) == 0, log.read_text()
            finally:
                driver.kill()
    records = store.records()
    assert [(r.status, r.epochs) for r in records] == [("finished", many)] * 3
    assert sorted(r.restarts for r in records) == [0, 0, 1], "one of the two that ran"
    assert "it starts again" in log.read_text()


def trial_processes() -> list[int]:
    """Processes of this test session in which a trial runs."""
    found = []
    for process in processes(f"{MARKER}={os.environ[MARKER]}"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            if re.match(rb"ray::\w+\.train", Path("/proc", process, "cmdline").read_bytes()):
                found.append(int(process))
    return found
