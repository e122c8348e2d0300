"""Random-initialised models: what they recommend means nothing, but it is always the same."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from recsys.checkpoint import save_checkpoint
from recsys.data.prepared import PreparedDataset
from recsys.serving.recommender import Recommender
from recsys.students.config import SASRecConfig
from recsys.students.sasrec import SASRec


@pytest.fixture
def dataset(random_dataset: Callable[..., PreparedDataset]) -> PreparedDataset:
    return random_dataset()


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
