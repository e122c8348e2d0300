"""A node that is lost amid a job: what comes out is what the undisturbed job gives, bit by bit, and no more is done
again than docs/cluster.md says.

Every node is a raylet of its own with its own workers (`ray.cluster_utils.Cluster`), the driver's has no cores, and
nothing but the storage root is shared. A node is lost when all its processes are killed; it is cut off when they are
stopped for as long as the head takes to give it up, and go on afterwards, not knowing that others took their place.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from recsys.checkpoint import load_checkpoint, save_checkpoint
from recsys.config import from_dict, to_dict
from recsys.data.config import DataConfig
from recsys.data.prepare import prepare
from recsys.settings import Settings
from recsys.signals.writer import SignalsWriter
from recsys.stages import signals as signals_stage
from recsys.stages.executor import InProcess
from recsys.teachers.config import HLLMConfig
from recsys.teachers.hllm import HLLM
from tests.integration.commands import ROOT, Command, ray_nodes

pytestmark = [pytest.mark.full, pytest.mark.faults]

NODE = {"num_cpus": 1, "object_store_memory": 100_000_000}
# A node is given up after five checks; Ray's own are further apart.
CHECKS = {
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 1000,
    "health_check_timeout_ms": 2000,
    "health_check_failure_threshold": 5,
}
EPOCHS = 8


@dataclass
class Nodes:
    """A cluster whose head runs nothing but drivers."""

    cluster: Any

    def add(self, count: int) -> list[Any]:
        return [self.cluster.add_node(**NODE) for _ in range(count)]

    def remove(self, node: Any) -> None:
        """The machine goes, with everything on it."""
        left = processes_of(node)
        if node in self.cluster.worker_nodes:
            self.cluster.remove_node(node, allow_graceful=False)
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    @contextlib.contextmanager
    def job(self, module: str, settings: Settings, *arguments: str) -> Iterator[Command]:
        """`python -m ray_jobs.<module>` on it."""
        config = Path(settings.layout.storage_root, f"{settings.name}.yaml")
        config.write_text(yaml.safe_dump(to_dict(settings)))
        command = Command(
            subprocess.Popen(
                [sys.executable, "-m", f"ray_jobs.{module}", "--config", str(config), *arguments],
                cwd=ROOT,
                env={**os.environ, "RAY_ADDRESS": self.cluster.address},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        )
        try:
            yield command
        finally:
            if command.process.poll() is None:
                command.kill(signal.SIGKILL)
                command.end(30)


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    with ray_nodes("lost-", num_cpus=0, object_store_memory=100_000_000, _system_config=CHECKS) as cluster:
        yield Nodes(cluster)


@pytest.fixture
def three(nodes: Nodes) -> Iterator[list[Any]]:
    added = nodes.add(3)
    yield added
    for node in added:
        nodes.remove(node)


def raylet(node: Any) -> psutil.Process:
    (started,) = node.all_processes["raylet"]
    return psutil.Process(started.process.pid)


def processes_of(node: Any) -> list[psutil.Process]:
    """Those of a node, its raylet first."""
    try:
        return [raylet(node), *raylet(node).children(recursive=True)]
    except (psutil.NoSuchProcess, KeyError):
        return []


def works_on(node: Any, actor: str) -> bool:
    """Whether an actor of that class lives there."""
    for process in processes_of(node):
        with contextlib.suppress(psutil.NoSuchProcess):
            if " ".join(process.cmdline()).startswith(f"ray::{actor}"):
                return True
    return False


def send(processes: list[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def wait_until(condition: Callable[[], object], command: Command, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        ended = command.process.poll() is not None
        if ended or time.monotonic() > deadline:
            if not ended:
                command.kill(signal.SIGKILL)
            command.end(30)
            pytest.fail(command.output)
        time.sleep(0.01)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, fixture_data: Path) -> Callable[[str], Settings]:
    """Projects of one dataset and one teacher of random weights, by name."""
    root = tmp_path_factory.mktemp("projects")
    dataset = prepare(DataConfig(path=str(fixture_data), max_history=10), "p", report=lambda _: None)
    torch.manual_seed(0)
    teacher = HLLM(HLLMConfig(width=16, heads=2, hidden=16, item_width=8), num_items=dataset.num_items)
    teacher.text.normal_()
    training = {"epochs": EPOCHS, "batch_size": 2, "patience": 0}
    scaling = {"workers": 2, "cpus": 1}

    def make(name: str, *, trained: bool = True) -> Settings:
        values = {
            "name": name,
            "storage": str(root),
            "tracking": {"uri": "none"},
            "teacher": {
                "model": {"width": 16, "layers": 1, "heads": 2},
                "training": training,
                "scaling": scaling,
            },
            "signals": {
                "k": 5,
                "rows_per_shard": 4,
                "actors": 2,
                "cpus": 1,
                "batch_size": 4,
                "dtype": "fp32",
            },
            "students": {
                "small": {
                    "model": {"kind": "sasrec", "width": 16, "blocks": 1, "heads": 1},
                    "distillation": {"ranking": {"k": 5}, "embedding": None},
                    "training": training,
                    "scaling": scaling,
                }
            },
        }
        settings = from_dict(Settings, values)
        dataset.write(settings.layout.dataset)
        if trained:
            save_checkpoint(settings.layout.teacher, teacher, dataset)
        return settings

    return make


def shards(settings: Settings, folder: str | None = None) -> dict[str, tuple[int, int]]:
    """Shards that are there, each with what tells it from the same written again."""
    work = folder or SignalsWriter(settings.layout.signals, key=signals_stage.key(settings), k=5).work
    found = {}
    for path in Path(work).glob("rankings/part-*.parquet"):
        with contextlib.suppress(FileNotFoundError):  # the pass ended meanwhile, and its folder was renamed
            found[path.name] = (path.stat().st_ino, path.stat().st_mtime_ns)
    return found


@pytest.mark.parametrize("fault", ["lost", "cut off"])
def test_the_teacher_pass(nodes: Nodes, three: list[Any], project: Callable[[str], Settings], fault: str) -> None:
    """Of two nodes with one actor each one goes, and none comes in its place."""
    torch.set_num_threads(1)
    calm, settings = project(f"calm-{fault[:3]}"), project(f"pass-{fault[:3]}")
    signals_stage.make(calm, InProcess())
    expected = {path.name: pq.read_table(path) for path in Path(calm.layout.signals).glob("rankings/part-*.parquet")}
    nodes.remove(three[2])
    with nodes.job("infer_teacher", settings) as job:
        wait_until(lambda: all(works_on(node, "MapWorker") for node in three[:2]) and len(shards(settings)) >= 3, job)
        finished = shards(settings)
        if fault == "lost":
            nodes.remove(three[1])
        else:
            send([raylet(three[1])], signal.SIGSTOP)
        assert len(finished) < len(expected)
        assert job.end(240) == 0, job.output
    after = shards(settings, settings.layout.signals)
    assert {name: after[name] for name in finished} == finished, "what was finished was not done again"
    send([raylet(three[1])] if fault == "cut off" else [], signal.SIGCONT)
    time.sleep(3)  # what was cut off goes on, and ends
    found = {path.name: pq.read_table(path) for path in Path(settings.layout.signals).glob("rankings/part-*.parquet")}
    assert found.keys() == expected.keys()
    assert all(found[name].equals(expected[name]) for name in expected)


@pytest.fixture(scope="module")
def undisturbed(nodes: Nodes, project: Callable[..., Settings]) -> Callable[[str], Settings]:
    """What each training job makes where nothing is lost; made when it is first asked for."""
    made: dict[str, Settings] = {}

    def make(module: str) -> Settings:
        if module not in made:
            settings = prepared(project, module, f"calm-{module}")
            with nodes.job(module, settings) as job:
                assert job.end(240) == 0, job.output
            made[module] = settings
        return made[module]

    return make


def prepared(project: Callable[..., Settings], module: str, name: str) -> Settings:
    """A project for which a training job has its inputs."""
    settings = project(name, trained=module == "distill")
    if module == "distill":
        torch.set_num_threads(1)
        signals_stage.make(settings, InProcess())
    return settings


@contextlib.contextmanager
def checkpoints(settings: Settings) -> Iterator[set[str]]:
    """The states that a training in the block leaves, one for each epoch that it trains, those removed again too."""
    seen: set[str] = set()
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.05):
            seen.update(str(path) for path in Path(settings.layout.root, "train").glob("*/checkpoint_*"))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield seen
    finally:
        over.set()
        watcher.join()


def test_the_training_of_a_teacher(
    nodes: Nodes, three: list[Any], project: Callable[..., Settings], undisturbed: Callable[[str], Settings]
) -> None:
    """Of the nodes of two workers one goes, and another takes its place later."""
    calm, settings = undisturbed("train_teacher"), prepared(project, "train_teacher", "lost-teacher")
    with checkpoints(settings) as seen, nodes.job("train_teacher", settings) as job:
        job.wait_for("epoch 3/8", 120)
        busy = [node for node in three if works_on(node, "RayTrainWorker")]
        assert len(busy) == 2, "a worker on each"
        for node in three:
            if node is not busy[1]:
                nodes.remove(node)
        job.wait_for("waiting for a node with room for its workers", 120)
        three += nodes.add(1)
        assert job.end(240) == 0, job.output
    assert "restarting from the last checkpoint" in job.output
    assert [job.output.count(f"epoch {number}/8 ") for number in range(1, EPOCHS + 1)] == [1] * EPOCHS
    assert len(seen) - EPOCHS <= 2, "the epoch in hand, and one that had just ended"
    assert_alike(settings, calm, "teacher")


def assert_alike(settings: Settings, calm: Settings, name: str) -> None:
    """The checkpoints of two projects are equal, bit by bit, and so is the way to them."""
    found, expected = (load_checkpoint(f"{each.layout.root}/{name}") for each in (settings, calm))
    theirs = expected.model.state_dict()
    assert all(torch.equal(tensor, theirs[key]) for key, tensor in found.model.state_dict().items())
    curves = [[epoch["loss"] for epoch in each.info["training"]["curve"]] for each in (found, expected)]
    assert curves[0] == curves[1]
