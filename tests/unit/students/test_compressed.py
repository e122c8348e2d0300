from pathlib import Path

import pytest
import torch

from recsys.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from recsys.config import from_dict
from recsys.decoders.quantised import numbers_and_bytes
from recsys.errors import UserError
from recsys.model import SequentialRecommender
from recsys.students.compressed import make_compressed
from recsys.students.config import CompressedConfig, SASRecConfig
from recsys.students.sasrec import SASRec
from recsys.teachers.config import E4SRecConfig
from recsys.teachers.e4srec import E4SRec

CONFIG = from_dict(CompressedConfig, {"kind": "compressed", "compression": {"weights": "int8"}})


@pytest.fixture
def saved(tmp_path: Path, random_dataset):
    def save(model: SequentialRecommender) -> Checkpoint:
        save_checkpoint(str(tmp_path / "model"), model, random_dataset())
        return load_checkpoint(tmp_path / "model")

    return save


def test_it_is_smaller_and_tells_its_bytes(saved, random_dataset) -> None:
    source = saved(E4SRec.build(E4SRecConfig(kind="e4srec", width=16, heads=2, layers=2), torch.randn(61, 8)))
    made = make_compressed(CONFIG, source, random_dataset())
    assert made.metrics == {
        "bytes_before": numbers_and_bytes(source.model)[1], "bytes": numbers_and_bytes(made.model)[1]
    }  # fmt: skip
    assert made.metrics["bytes"] < made.metrics["bytes_before"] and "MB made" in made.line
    with pytest.raises(UserError, match="what it is made from was trained on dataset"):
        make_compressed(CONFIG, source, random_dataset(seed=1))


def test_a_model_without_layers_is_refused(saved, random_dataset) -> None:
    source = saved(SASRec(SASRecConfig(width=8), num_items=60))
    with pytest.raises(UserError, match=r"only language-model recommenders .* is of kind sasrec"):
        make_compressed(CONFIG, source, random_dataset())
