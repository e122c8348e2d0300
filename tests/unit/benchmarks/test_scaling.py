import dataclasses
import re
from collections.abc import Callable
from functools import reduce
from pathlib import Path
from types import ModuleType
from typing import Any

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
    assert list(tables) == ["interactions", "items", "teachers", "passes", "stages", "workers"]
    for line in tables["interactions"][1:]:
        measured = line[0] in ("10^6", "10^7")
        assert [cell.startswith("~") for cell in line[1:4]] == [not measured] * 3
    for name in ("teachers", "passes"):
        assert all(re.match("~", cell) for line in tables[name][1:] for cell in line[2:])


def store(scaling: ModuleType, monkeypatch: pytest.MonkeyPatch, **figures: Any) -> dict[str, list[list[str]]]:
    """The tables, were these the committed figures."""

    def read(benchmark: str, figure: str) -> Any:
        found = figures.get(benchmark)
        if found is None or not figure:
            return found
        return reduce(lambda value, key: value[key], figure.split("/"), found)

    monkeypatch.setattr(scaling, "read", read)
    return {"stages": scaling._stages(), "workers": scaling._workers()}


def test_stages_tell_what_was_scaled_up_and_what_was_refused(
    scaling: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = {"seconds": 2.04, "peak_gb": 0.5, "own_gb": 0.1}
    figures = {
        "preparation": {"100000": whole, "1000000": {**whole, "seconds": 20.0, "peak_gb": 1.5}},
        "rules": {"100000": whole, "1000000": {"over_limit": True}},
        "training": {"100000": {**whole, "share": 1.0}, "1000000": {**whole, "seconds": 600.0, "share": 0.2}},
        "exponent": {
            "preparation": {"core_seconds": 1.0, "own_gb": 0.5},
            "rules": {"core_seconds": None, "own_gb": None},
            "training": {"core_seconds": 2.466, "own_gb": 0.0},
        },
        "limit_gb": 14,
    }
    assert store(scaling, monkeypatch, scale=figures)["stages"] == [
        ["", "10^5", "10^6", "time on a core grows by", "peak, 10^5", "peak, 10^6", "memory grows by"],
        ["preparation", "2.0 s", "20 s", "T^1.00", "500 MB", "1.5 GB", "T^0.50"],
        ["rules", "2.0 s", "over 14 GB", "–", "500 MB", "over 14 GB", "–"],
        ["training", "2.0 s", "~10 min", "T^2.47", "500 MB", "500 MB", "T^0.00"],
    ]


def test_workers_are_told_by_what_they_reach_together(scaling: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = {
        "in_process": {"rows_per_second": 1100, "start_seconds": 0.1},
        "1": {"rows_per_second": 1000, "start_seconds": 5},
        "2": {"rows_per_second": 1900, "start_seconds": 6},
    }
    names = ("pass", "distillation", "simulated_pass", "simulated_distillation")
    figures = {
        **dict.fromkeys(names, stage),
        "overhead": dict.fromkeys(names, 0.1),
        "scaling": {name: {"2": 0.95} for name in names},
    }
    lines = store(scaling, monkeypatch, workers=figures)["workers"]
    assert lines[0][1:] == ["without Ray", "Ray, 1", "Ray, 2", "of 2 times one", "Ray costs", "start, 1", "start, 2"]
    assert lines[3] == ["pass, teacher simulated", "1,100", "1,000", "1,900", "95%", "10%", "5.0 s", "6.0 s"]


def test_nothing_is_drawn_before_it_was_measured(scaling: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    assert store(scaling, monkeypatch) == {"stages": [], "workers": []}
