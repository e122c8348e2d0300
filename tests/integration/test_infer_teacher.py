"""The teacher pass on Ray: whole, killed and continued, always the same rows."""

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import ray
import torch

from ray_jobs.on_ray import OnRay
from recsys import storage
from recsys.checkpoint import load_checkpoint, save_checkpoint
from recsys.config import load_config
from recsys.data.config import DataConfig
from recsys.data.prepare import prepare
from recsys.data.prepared import PreparedDataset
from recsys.data.splits import SPLITS
from recsys.errors import UserError
from recsys.histories import Histories
from recsys.inference.engine import TeacherEngine
from recsys.inference.ranking import rank_rows, window_starts
from recsys.settings import Settings, WorkersConfig
from recsys.signals.config import StatesConfig
from recsys.signals.signals import TeacherSignals
from recsys.signals.states import StoredStates
from recsys.signals.writer import ShardPlan, SignalsWriter
from recsys.stages import signals as signals_stage
from recsys.stages import student as student_stage
from recsys.stages import teacher as teacher_stage
from recsys.teacher import teacher_class
from recsys.teachers.config import HLLMConfig
from recsys.teachers.hllm import HLLM
from recsys.training.config import TrainingConfig

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def dataset(fixture_data: Path) -> PreparedDataset:
    return prepare(DataConfig(path=str(fixture_data), max_history=10), "random-teacher")


@pytest.fixture
def settings(dataset: PreparedDataset, tmp_path: Path) -> Settings:
    """A project with a dataset and a teacher of random initial weights, and many small shards to rank."""
    options = [
        f"storage={tmp_path}", "name=p", "tracking.uri=none", "signals.k=5", "signals.rows_per_shard=12",
        "signals.actors=1", "signals.batch_size=4", "signals.dtype=fp32", "signals.states={blocks: 2, dtype: fp32}",
        "students.cut={model: {kind: slmrec, layers: 2}, alignment: {blocks: 2, stored: true}}",
    ]  # fmt: skip
    result = load_config(Settings, None, options)
    dataset.write(result.layout.dataset)
    torch.manual_seed(0)
    model = HLLM(HLLMConfig(width=16, heads=2, hidden=16, item_width=8), num_items=dataset.num_items)
    model.text.normal_()
    save_checkpoint(result.layout.teacher, model, dataset)
    return result


def check(settings: Settings, dataset: PreparedDataset) -> None:
    """The signals hold every row once, and say of each what the teacher says in one uninterrupted go."""
    signals = TeacherSignals.load(settings.layout.signals, dataset)
    plan = ShardPlan.of(dataset, SPLITS, 12)
    assert np.array_equal(signals.rows, plan.rows)
    engine = TeacherEngine(load_checkpoint(settings.layout.teacher).model, "fp32")
    expected = rank_rows(engine, dataset, plan.rows, k=5, mask_history=True)
    assert np.array_equal(signals.items, expected.items)
    np.testing.assert_allclose(signals.scores, expected.scores, atol=1e-4)
    np.testing.assert_allclose(signals.target_distance, expected.target_distance, atol=1e-4)
    torch.testing.assert_close(signals.item_embeddings, engine.vectors)
    stored = StoredStates.load(settings.layout.signals, dataset)
    train, model = dataset.rows("train"), load_checkpoint(settings.layout.teacher).model
    have, states = stored.at(torch.from_numpy(train), [1, 2])
    assert have.all()
    starts = window_starts(dataset, train)
    with torch.no_grad():
        for index in range(0, len(train), 7):
            items = torch.from_numpy(dataset.items[starts[index] : train[index]].astype(np.int64))[None]
            for layer, expected in model.states(Histories.of(items), [1, 2]).items():
                torch.testing.assert_close(states[layer - 1][index], expected[0, -1], atol=1e-4, rtol=1e-4)
    assert signals.meta.rows == {split: len(dataset.rows(split)) for split in SPLITS}
    assert signals.meta.cost["teacher_seconds"] > 0
    assert signals.meta.settings["teacher"]["language_model"] == "from-scratch"
    assert not [path.name for path in Path(settings.layout.root).iterdir() if path.name.startswith(".")]


def parts(settings: Settings) -> dict[str, int]:
    """Finished shards of an unfinished pass, with the time each was written."""
    work = SignalsWriter(settings.layout.signals, key=signals_stage.key(settings), k=5).work
    return {path.name: path.stat().st_mtime_ns for path in Path(work).glob("rankings/part-*.parquet")}


def wait_until(condition: Callable[[], object]) -> None:
    while not condition():
        time.sleep(0.005)


def test_a_pass_is_done_once_and_again_when_the_teacher_changes(
    settings: Settings, dataset: PreparedDataset, ray_session: None, capfd: pytest.CaptureFixture[str]
) -> None:
    signals_stage.make(settings, executor=OnRay())
    check(settings, dataset)
    first = storage.read_manifest(settings.layout.signals)
    signals_stage.make(settings, executor=OnRay())
    told = capfd.readouterr().out
    assert "up to date" in told
    assert f"states after layers 1, 2 of {len(dataset.rows('train')):,} training rows take 0.1 MB in fp32" in told
    student, _, _ = student_stage.build(settings.students["cut"], settings.layout)
    batch, _ = next(iter(student.batches(dataset, TrainingConfig(batch_size=4), rank=0, world=1).epoch(0)))
    assert student(batch)[1]["cosine_alignment_loss"] >= 0
    assert storage.read_manifest(settings.layout.signals) == first

    other = load_checkpoint(settings.layout.teacher).model
    save_checkpoint(settings.layout.teacher, other, dataset, info={"revision": 2})
    with pytest.raises(UserError, match=r"stored states are of teacher revision .*; run infer_teacher again"):
        student_stage.build(settings.students["cut"], settings.layout)
    poisoned = load_checkpoint(settings.layout.teacher).model
    with torch.no_grad():
        poisoned.leave.weight.fill_(3e38)  # finite, its sums are not
    save_checkpoint(settings.layout.teacher, poisoned, dataset)
    with pytest.raises(UserError, match=r"prediction is not finite for all of the first 1,\d+ rows"):
        signals_stage.make(settings, executor=OnRay())
    assert storage.read_manifest(settings.layout.signals) == first


@pytest.mark.full
@pytest.mark.faults
def test_a_teacher_split_over_two_processes(settings: Settings, dataset: PreparedDataset, ray_session: None) -> None:
    """One of the two ends in mid-pass; the other can do nothing without it, and both are started again."""
    settings = dataclasses.replace(settings, signals=dataclasses.replace(settings.signals, tensor_parallel=2))
    killed: list[int] = []

    def members() -> list[int]:
        children = [pid for actor in ranking_actors().values() for pid in children_of(actor)]
        return [int(pid) for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]

    def kill() -> None:
        wait_until(lambda: len(parts(settings)) >= 3 and len(members()) == 2)
        killed.extend(members())
        os.kill(killed[1], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    signals_stage.make(settings, executor=OnRay())
    killer.join()
    assert len(killed) == 2
    check(settings, dataset)


def children_of(pid: int) -> list[str]:
    return [child for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()]


def test_an_estimate_writes_nothing(settings: Settings, ray_session: None, capsys: pytest.CaptureFixture[str]) -> None:
    signals_stage.estimate(settings, executor=OnRay())
    told = capsys.readouterr().out
    assert "rows/s per actor" in told
    assert "core-hours" in told
    assert not Path(settings.layout.signals).exists()


def test_what_no_node_can_give_is_refused_instead_of_waited_for(settings: Settings, ray_session: None) -> None:
    for change in ({"gpus": 1}, {"tensor_parallel": 8}):
        greedy = dataclasses.replace(settings, signals=dataclasses.replace(settings.signals, **change))
        for job in (signals_stage.estimate, signals_stage.make):
            with pytest.raises(
                UserError, match=r"(actor of the pass|task of signals) asks for .*, but the cluster has room for 0"
            ):
                job(greedy, executor=OnRay())
    teacher = dataclasses.replace(settings.teacher, scaling=WorkersConfig(gpus=1))
    with pytest.raises(
        UserError, match=r"a task of teacher\.scaling asks for 0\.9 CPU and 1 GPU, but the cluster has room for 0"
    ):
        teacher_stage.make(dataclasses.replace(settings, teacher=teacher), executor=OnRay())


@pytest.mark.full
def test_a_killed_driver_is_continued(settings: Settings, dataset: PreparedDataset, ray_session: None) -> None:
    command = [
        sys.executable, "-m", "ray_jobs.infer_teacher", "--storage", settings.layout.storage_root, "name=p",
        "tracking.uri=none", "signals.k=5", "signals.rows_per_shard=12", "signals.actors=1", "signals.batch_size=4",
        "signals.dtype=fp32", "signals.states={blocks: 2, dtype: fp32}",
    ]  # fmt: skip
    environment = {**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    driver = subprocess.Popen(command, env=environment)
    wait_until(lambda: len(parts(settings)) >= 3 or driver.poll() is not None)
    driver.send_signal(signal.SIGKILL)
    assert driver.wait() == -signal.SIGKILL
    time.sleep(1)  # its actor, left alone, may still finish the shard in hand
    before = parts(settings)
    assert 3 <= len(before) < len(ShardPlan.of(dataset, SPLITS, 12))
    again = threading.Thread(target=signals_stage.make, args=(settings,), kwargs={"executor": OnRay()})
    again.start()
    wait_until(lambda: len(parts(settings)) > len(before) or not again.is_alive())
    assert {name: written for name, written in parts(settings).items() if name in before} in (before, {})
    again.join()
    check(settings, dataset)


# Once, on a machine at a load of 20, Ray's client waited here for an answer of its control store that never came, and
# no time-out of pytest reaches into it; so it is run with the long proofs.
@pytest.mark.full
@pytest.mark.faults
@pytest.mark.parametrize("kill", ["process", "actor", "actor for good"])
def test_a_killed_actor_loses_and_doubles_nothing(
    kill: str, settings: Settings, dataset: PreparedDataset, ray_session: None
) -> None:
    """The worker process is ended by SIGKILL, as the kernel does where memory is short; or Ray ends the actor, which it
    then starts again or not."""
    settings = dataclasses.replace(settings, signals=dataclasses.replace(settings.signals, actors=2))
    killed = []

    def fault() -> None:
        wait_until(lambda: len(parts(settings)) >= 3)
        actors = ranking_actors()
        for actor, pid in list(actors.items())[: 1 if kill == "actor for good" else 2]:
            if kill == "process":
                os.kill(pid, signal.SIGKILL)
            else:
                core = ray._private.worker.global_worker.core_worker
                core.kill_actor(ray.ActorID.from_hex(actor), kill == "actor for good")
            killed.append(actor)

    killer = threading.Thread(target=fault)
    killer.start()
    signals_stage.make(settings, executor=OnRay())
    killer.join()
    assert killed
    check(settings, dataset)


def ranking_actors() -> dict[str, int]:
    """The actors that rank at the moment, with the processes that they live in."""
    return {
        actor: state["Pid"]
        for actor, state in ray._private.state.actors().items()
        if state["ActorClassName"].startswith("MapWorker(MapBatches(RankShard)") and state["State"] == "ALIVE"
    }


@pytest.mark.full
@pytest.mark.faults
def test_a_killed_job_is_continued(settings: Settings, dataset: PreparedDataset) -> None:
    """Driver, actors and Ray itself end at once, as in a power failure; the job is then run again on another Ray."""
    command = [
        sys.executable, "-m", "ray_jobs.infer_teacher", "--storage", settings.layout.storage_root, "name=p",
        "tracking.uri=none", "signals.k=5", "signals.rows_per_shard=12", "signals.actors=2", "signals.batch_size=4",
        "signals.dtype=fp32", "signals.states={blocks: 2, dtype: fp32}",
    ]  # fmt: skip
    marker = f"RECSYS_TEST_JOB=killed-{os.getpid()}"
    with tempfile.TemporaryDirectory(prefix="j-") as folder:  # short, for Ray's sockets
        environment = {**os.environ, "TMPDIR": folder}
        environment.pop("RAY_ADDRESS", None)
        first = subprocess.Popen(command, env=environment | dict([marker.split("=")]))
        wait_until(lambda: len(parts(settings)) >= 3 or first.poll() is not None)
        before = parts(settings)
        while pids := processes_with(marker):
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            first.poll()
        assert first.wait() == -signal.SIGKILL
        assert 3 <= len(before) < len(ShardPlan.of(dataset, SPLITS, 12))
        again = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "shards are already there" in again.stdout
    check(settings, dataset)


def processes_with(marker: str) -> list[int]:
    """Processes whose environment says so."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended meanwhile, or belongs to someone else
            if marker.encode() in (process / "environ").read_bytes():
                found.append(int(process.name))
    return found


@pytest.mark.parametrize(("kind", "rows", "shard"), [("hllm", None, 8192), ("bigrec", 10_000, 256)])
def test_what_is_left_open_is_filled_in_by_the_kind(
    settings: Settings, kind: str, rows: int | None, shard: int
) -> None:
    signals = dataclasses.replace(settings.signals, train_rows=None, rows_per_shard=None)
    open_ = dataclasses.replace(settings, signals=signals)
    filled = signals_stage.fill_open(open_, teacher_class(kind)).signals
    assert (filled.train_rows, filled.rows_per_shard) == (rows, shard)
    assert signals_stage.fill_open(settings, teacher_class(kind)).signals.rows_per_shard == 12


def test_what_is_missing_or_does_not_fit_is_one_sentence(
    settings: Settings, dataset: PreparedDataset, fixture_data: Path
) -> None:
    three = dataclasses.replace(settings.signals, states=StatesConfig(blocks=3))
    with pytest.raises(UserError, match=r"states.blocks is 3, .* the teacher's 2 layers; possible: 1, 2"):
        signals_stage.make(dataclasses.replace(settings, signals=three), executor=OnRay())
    with pytest.raises(UserError, match=r"there is no set of teacher signals in .*; run infer_teacher first"):
        student_stage.key(settings, "cut")
    prepare(DataConfig(path=str(fixture_data), max_history=9), "other").write(settings.layout.dataset)
    with pytest.raises(UserError, match="was trained on dataset"):
        signals_stage.make(settings, executor=OnRay())
    storage.delete(settings.layout.teacher)
    with pytest.raises(UserError, match=r"there is no teacher in .*; run train_teacher first"):
        signals_stage.make(settings, executor=OnRay())
