"""Checkpoints are refused where their parts do not belong together or their numbers are none."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

from recsys import storage
from recsys.checkpoint import load_checkpoint, save_checkpoint
from recsys.data.attributes import Attributes
from recsys.data.prepared import Catalogue, PreparedDataset
from recsys.errors import UserError
from recsys.students.config import SASRecConfig
from recsys.students.sasrec import SASRec

Make = Callable[..., PreparedDataset]


@pytest.fixture
def saved(random_dataset: Make, tmp_path: Path) -> Path:
    dataset = random_dataset(items=20)
    save_checkpoint(
        str(tmp_path / "c"), SASRec(SASRecConfig(width=8, blocks=1, heads=1), num_items=20), dataset, key="k"
    )
    return tmp_path / "c"


def test_attributes_of_items_go_with_the_checkpoint(random_dataset: Make, tmp_path: Path, saved: Path) -> None:
    dataset = random_dataset(items=20)
    attributes = Attributes.of_items({"genres": pa.array([["Drama"], *[None] * 19])})
    rich = replace(dataset, catalogue=replace(dataset.catalogue, attributes=attributes))
    save_checkpoint(str(tmp_path / "rich"), load_checkpoint(saved).model, rich)
    assert load_checkpoint(tmp_path / "rich").catalogue.attributes.of([1, 2]) == [{"genres": ["Drama"]}, {}]
    assert not load_checkpoint(saved).catalogue.attributes


def sealed_again(folder: Path) -> str:
    """As one who changes a file and the manifest with it."""
    (folder / storage.MANIFEST).unlink()
    storage.seal(str(folder), key="k")
    return str(folder)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_weights_that_are_not_finite_are_refused(saved: Path, value: float, dtype: torch.dtype) -> None:
    state = load_file(saved / "model.safetensors")
    name = list(state)[-1]
    state[name] = state[name].to(dtype)
    state[name].view(-1)[-1] = value
    save_file(state, saved / "model.safetensors")
    with pytest.raises(
        UserError, match=rf"^checkpoint .*/c has weights that are not finite \({name}\); train it again$"
    ):
        load_checkpoint(sealed_again(saved))


def test_weights_that_are_not_finite_are_not_written(random_dataset: Make, tmp_path: Path) -> None:
    model = SASRec(SASRecConfig(width=8, blocks=1, heads=1), num_items=20)
    with torch.no_grad():
        next(model.parameters()).view(-1)[3] = math.nan
    with pytest.raises(UserError, match="is not written: the model has weights that are not finite"):
        save_checkpoint(str(tmp_path / "c"), model, random_dataset(items=20))
    assert list(tmp_path.iterdir()) == []


def items_of(folder: Path) -> pa.Table:
    return pq.read_table(folder / "items.parquet")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda table: table.slice(0, 19), "items.parquet has 19 items, but its weights are of 20"),
        (lambda table: table.take(np.arange(20)[::-1]), "does not hold items 1 to 20 in this order"),
        (
            lambda table: table.take(np.arange(20)[::-1]).set_column(0, table.schema.field(0), table["item"]),
            "items.parquet has other items, or in another order, than its weights were trained with",
        ),
        (
            lambda table: table.set_column(2, table.schema.field(2), pa.array(table["title"].to_pylist()[::-1])),
            "items.parquet has other items, or in another order, than its weights were trained with",
        ),
        (lambda table: table.set_column(1, table.schema.field(1), pa.array(["a"] * 20)), "holds an item id twice"),
        (
            lambda table: table.set_column(2, table.schema.field(2), pa.nulls(20, pa.string())),
            "has rows without an id, a title or a count",
        ),
    ],
    ids=["fewer", "reversed", "renumbered", "titles", "ids", "nulls"],
)
def test_items_of_other_weights_are_refused(saved: Path, change: Callable[[pa.Table], pa.Table], sentence: str) -> None:
    pq.write_table(change(items_of(saved)), saved / "items.parquet")
    with pytest.raises(UserError, match=sentence) as caught:
        load_checkpoint(sealed_again(saved))
    assert "\n" not in str(caught.value)


def test_a_checkpoint_without_a_hash_of_its_items_loads(saved: Path) -> None:
    config = json.loads((saved / "config.json").read_text())
    del config["items_hash"]
    (saved / "config.json").write_text(json.dumps(config))
    assert len(load_checkpoint(sealed_again(saved)).catalogue) == 20


@pytest.mark.parametrize("text", ["", "[]", "{", '{"kind": 1}'])
def test_a_config_that_is_none_is_one_line(saved: Path, text: str) -> None:
    (saved / "config.json").write_text(text)
    with pytest.raises(UserError):
        load_checkpoint(sealed_again(saved))


def test_a_table_that_is_none_is_one_line(saved: Path) -> None:
    (saved / "items.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match="cannot be read"):
        load_checkpoint(sealed_again(saved))


def test_a_dataset_of_parts_that_do_not_belong_together_is_refused(random_dataset: Make, tmp_path: Path) -> None:
    dataset = random_dataset()
    for field, values in (("item_ids", dataset.catalogue.item_ids), ("titles", dataset.catalogue.titles)):
        dataset.write(str(tmp_path / field))
        swapped = {**vars(dataset.catalogue), field: ["", *values[:0:-1]]}
        swapped.pop("index")
        Catalogue(**swapped).write(tmp_path / field / "items.parquet")
        with pytest.raises(UserError, match="is damaged: its files do not belong together"):
            PreparedDataset.load(sealed_again(tmp_path / field))
