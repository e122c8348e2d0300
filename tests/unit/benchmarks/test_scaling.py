import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from recsys.config import from_dict
from recsys.data.prepared import PreparedDataset
from recsys.stages import teacher_size
from recsys.students.config import SASRecConfig
from recsys.students.sasrec import SASRec
from recsys.teachers.bigrec.config import BIGRecConfig


@pytest.fixture
def scaling(monkeypatch: pytest.MonkeyPatch, project_root: Path) -> ModuleType:
    monkeypatch.syspath_prepend(str(project_root / "benchmarks"))
    import scaling

    return scaling


def test_formulas_count_what_there_is(scaling: ModuleType, random_dataset: Callable[..., PreparedDataset]) -> None:
    dataset = random_dataset(users=2000)
    arrays = (dataset.items, dataset.timestamps, *dataset.split_rows.values())
    held = sum(array.nbytes for array in arrays)
    first = len(dataset.user_ids)  # which are no rows: nothing comes before them
    assert scaling.dataset_bytes(len(dataset.items), 0) == held + 8 * first
    items = SASRec(SASRecConfig(width=16), num_items=60).item_vectors()[1:]
    assert scaling.table_bytes(60, 16) == items.numel() * items.element_size()


def test_a_decoder_has_the_weights_that_pytorch_counts(
    scaling: ModuleType, random_dataset: Callable[..., PreparedDataset]
) -> None:
    values = {"base": "from-scratch", "layers": 3, "width": 96, "heads": 4, "vocabulary": 500}
    config = from_dict(BIGRecConfig, values)
    counted = teacher_size.size_of(config, random_dataset())
    made = scaling.size_of(counted.layers, counted.width, counted.feed_forward, 500, counted.width, counted.width)
    assert made.weights == pytest.approx(counted.weights, rel=0.005), "but for the norms"


@pytest.mark.parametrize(("name", "billions"), [("0.5", 0.494), ("1.7", 1.72), ("8", 8.19), ("32", 32.8), ("70", 70.6)])
def test_published_teachers_have_their_published_size(scaling: ModuleType, name: str, billions: float) -> None:
    (shape,) = [shape for known, shape in scaling.TEACHERS.items() if known.startswith(f"{name} ")]
    assert scaling.size_of(*shape).weights == pytest.approx(1e9 * billions, rel=0.01)


def test_more_cards_are_asked_for_by_larger_teachers_and_smaller_cards(scaling: ModuleType) -> None:
    sizes = [scaling.size_of(*shape) for shape in scaling.TEACHERS.values()]
    for card in ("A10G", "H100"):
        counts = [scaling.cards_needed(size, card) for size in sizes]
        assert counts == sorted(counts)
    assert scaling.cards_needed(sizes[-1], "A10G") > scaling.cards_needed(sizes[-1], "H100") > 1
    wide = dataclasses.replace(sizes[0], weights=sizes[0].weights * 2)
    assert scaling.prompt_pass(wide, 10) == 2 * scaling.prompt_pass(sizes[0], 10)
    assert scaling.window_pass(sizes[0], 100, 0) == 2 * sizes[0].weights * (100 + 2 * 16)


def test_what_was_measured_stands_without_a_tilde(scaling: ModuleType) -> None:
    tables = {table.name: table.draw() for table in scaling.tables()}
    assert list(tables) == ["interactions", "items", "teachers", "passes"]
    for line in tables["interactions"][1:]:
        measured = line[0] in ("10^6", "10^7")
        assert [cell.startswith("~") for cell in line[1:4]] == [not measured] * 3
    for name in ("teachers", "passes"):
        assert all(re.match("~", cell) for line in tables[name][1:] for cell in line[2:])
