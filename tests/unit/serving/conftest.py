"""Random-initialised models: what they recommend means nothing, but it is always the same."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
import torch
import uvicorn
from starlette.types import ASGIApp

from recsys.checkpoint import save_checkpoint
from recsys.data.attributes import Attributes
from recsys.data.prepared import PreparedDataset
from recsys.serving.assignment import Arm
from recsys.serving.experiment import Experiment, Kept
from recsys.serving.recommender import Recommender
from recsys.serving.service import Service
from recsys.students.config import SASRecConfig
from recsys.students.sasrec import SASRec


@pytest.fixture
def dataset(random_dataset: Callable[..., PreparedDataset]) -> PreparedDataset:
    """Items of three genres, every seventh without any; every fifth has a second one."""
    dataset = random_dataset()
    names = ["Drama", "Comedy", "Horror"]
    genres = [
        [] if n % 7 == 0 else list(dict.fromkeys([names[n % 3], *([names[(n + 1) % 3]] if n % 5 == 0 else [])]))
        for n in range(1, dataset.num_items + 1)
    ]
    brands = [["Acme"] if n % 2 else [] for n in range(1, dataset.num_items + 1)]
    attributes = Attributes.of_items({"genres": pa.array(genres), "brand": pa.array(brands)})
    return replace(dataset, catalogue=replace(dataset.catalogue, attributes=attributes))


@pytest.fixture
def random_initialised(dataset: PreparedDataset, tmp_path: Path) -> Path:
    """A checkpoint of a random-initialised SASRec."""
    torch.manual_seed(0)
    model = SASRec(SASRecConfig(width=16, blocks=1, max_positions=dataset.max_history), num_items=dataset.num_items)
    save_checkpoint(str(tmp_path / "student"), model, dataset)
    return tmp_path / "student"


@pytest.fixture
def recommender(random_initialised: Path) -> Recommender:
    return Recommender.load(random_initialised)


@pytest.fixture
def experiment() -> Kept:
    halves: dict[Arm, float] = {"teacher": 0.5, "student": 0.5}
    return Kept(Experiment(arms=("teacher", "student", "null"), split=halves, salt="s", shadow=0))


@pytest.fixture
def service(dataset: PreparedDataset, experiment: Kept) -> Service:
    return Service(
        dataset,
        arms=("teacher", "student", "null"),
        experiment=experiment,
        default_arm="student",
        max_k=20,
        max_history=30,
        max_ids=25,
        max_requests=4,
    )


@contextlib.contextmanager
def listening(app: ASGIApp, port: int = 0) -> Iterator[str]:
    """The application under uvicorn, on a socket of this machine; gives its URL."""
    with socket.create_server(("127.0.0.1", port), backlog=1024) as place:
        server = uvicorn.Server(uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, args=([place],), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{place.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(10)
