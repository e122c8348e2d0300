import csv
import math
import resource
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from recsys.data.config import DataConfig
from recsys.data.prepare import prepare


@pytest.fixture
def scale(monkeypatch: pytest.MonkeyPatch, project_root: Path) -> ModuleType:
    monkeypatch.syspath_prepend(str(project_root / "benchmarks"))
    import scale

    return scale


def test_the_log_is_skewed_and_nothing_of_it_is_filtered(scale: ModuleType, tmp_path: Path) -> None:
    scale.make_log(str(tmp_path / "log.tsv"), 30_000)
    with (tmp_path / "log.tsv").open() as file:
        log = list(csv.DictReader(file, delimiter="\t"))
    assert abs(len(log) - 30_000) <= 2000
    times = [int(row["timestamp"]) for row in log]
    assert times == sorted(times)
    items, users = (Counter(row[name] for row in log) for name in ("item_id", "user_id"))
    assert len(items) == len(log) // scale.PER_ITEM and min(items.values()) >= 5 <= min(users.values())
    # Half of the events follow Zipf's law: the first item has 1 / ln N of them, the tenth a tenth of that.
    first, tenth = (len(log) / 2 / math.log(len(items)) / rank for rank in (1.44, 10.5))
    assert items["0"] == pytest.approx(first, rel=0.1) and items["9"] == pytest.approx(tenth, rel=0.4)
    middle = sorted(users.values())[len(users) // 2]
    assert 25 < middle < 36 and sum(users.values()) / len(users) > 1.3 * middle, "log-normal"
    dataset = prepare(DataConfig(source="table", path=str(tmp_path / "log.tsv")), "log", report=lambda _: None)
    assert len(dataset.items) == len(log) and dataset.num_items == len(items)


def test_an_exponent_is_the_slope_between_logarithms(scale: ModuleType) -> None:
    found = {str(10**n): {"core_seconds": 3 * 10 ** (1.5 * n), "own_gb": 0.2} for n in (3, 4, 5)}
    assert scale.fit_exponents(found) == {"core_seconds": 1.5, "own_gb": 0.0}
    refused = {**found, "1000000": {"over_limit": True}}
    assert scale.fit_exponents(refused)["core_seconds"] == 1.5
    assert scale.fit_exponents({"1000": found["1000"]}) == {"core_seconds": None, "own_gb": None}


@pytest.fixture
def own_limit() -> Iterator[None]:
    """`run_stage` takes its process for its own."""
    before = resource.getrlimit(resource.RLIMIT_DATA)
    yield
    resource.setrlimit(resource.RLIMIT_DATA, before)


@pytest.mark.usefixtures("own_limit")
def test_stages_follow_each_other_and_one_that_asks_for_too_much_is_refused(
    scale: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    scale.make_log(str(tmp_path / "log.tsv"), 2000)
    found = {stage: scale.run_stage(stage, str(tmp_path), 0) for stage in scale.STAGES}
    assert all(
        each["seconds"] > 0 and each["core_seconds"] > 0 and each["peak_gb"] > each["own_gb"] >= 0
        for each in found.values()
    )
    assert found["training"]["share"] == pytest.approx(1 / found["training"]["steps"], abs=1e-3), "one step, then out"
    assert found["evaluation"]["share"] == 1 and found["evaluation"]["rows"] < 4 * scale.EVALUATED
    monkeypatch.setattr(scale, "prepare", lambda _: bytearray(10**10))
    monkeypatch.setattr(scale, "LIMIT_GB", 8)
    assert scale.run_stage("preparation", str(tmp_path), 1) == {"over_limit": True}


def test_the_picture_has_a_line_for_each_stage(scale: ModuleType) -> None:
    figures = {
        stage: {"1000": {"seconds": 1, "core_seconds": 1, "peak_gb": 0.4, "own_gb": 0.1}} for stage in scale.STAGES
    }
    figures["training"]["10000"] = {"seconds": 12, "core_seconds": 12, "peak_gb": 0.6, "own_gb": 0.3, "share": 0.5}
    figures["rules"]["10000"] = {"over_limit": True}
    exponents = {stage: scale.fit_exponents(found) for stage, found in figures.items()}
    picture = scale.draw_picture({**figures, "exponent": exponents, "bound_gb": 10})
    for axes in picture.axes:
        labels = [text.get_text() for text in axes.get_legend().get_texts()]
        assert [label.partition(",")[0] for label in labels] == list(scale.STAGES)
    hollow = [line for line in picture.axes[0].lines if line.get_markerfacecolor() == "white"]
    assert [list(line.get_xdata()) for line in hollow] == [[10000]]
