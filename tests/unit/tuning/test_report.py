"""The report of a sweep says what the records say."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from recsys.config import from_dict
from recsys.tuning import plots
from recsys.tuning.config import SweepConfig
from recsys.tuning.records import Record
from recsys.tuning.report import describe_spending, findings, overhead, write_report

Make = Callable[..., Record]
CONFIG = from_dict(
    SweepConfig,
    {
        "student": "small",
        "parameters": {
            "model.dropout": {"kind": "uniform", "low": 0, "high": 1},
            "training.learning_rate": {"kind": "loguniform", "low": 0.01, "high": 1},
            "model.blocks": {"kind": "int", "low": 1, "high": 3},
            "loss.kind": {"kind": "choice", "values": ["softmax", "<bce>"]},
        },
    },
)


def parameters(dropout: float, rate: float, blocks: int, kind: str) -> dict[str, Any]:
    return dict(zip(CONFIG.parameters, (dropout, rate, blocks, kind), strict=True))


@pytest.fixture
def records(record: Make) -> list[Record]:
    costs: dict[str, Any] = {"latency_ms": 0.5, "size": 1000}
    return [
        record(0, [0.1, 0.2, 0.15, 0.1], parameters(0.2, 0.1, 2, "softmax"), **costs),
        record(1, [0.1], parameters(0.0, 0.01, 1, "<bce>"), status="stopped", **(costs | {"size": 500})),
        record(2, [0.2, 0.25, 0.3, 0.28], parameters(1.0, 1.0, 3, "softmax"), **costs),
        record(3, [], parameters(0.5, 0.5, 1, "softmax"), reason="training diverged: <NaN>", elapsed=45.0),
    ]


@pytest.fixture
def about(records: list[Record]) -> dict[str, Any]:
    return {
        "name": "space-small",
        "epochs": 4,
        "defaults": records[0].parameters,
        "importances": {"model.dropout": 0.75, "training.learning_rate": 0.25, "model.blocks": 0.0, "loss.kind": 0.0},
        "dataset": {"name": "walks", "fingerprint": "f" * 64},
        "concurrent": 2,
        "versions": {"ray": "2"},
        "hardware": {"processor": "none", "cores": 2, "memory_gb": 4.0},
        "test": {"seeds": 3, "ndcg@10": 0.123, "hr@10": 0.3, "spread": 0.004, "winners": 1},
    }


def test_findings(about: dict[str, Any], records: list[Record]) -> None:
    lines = findings(about, CONFIG, records)
    assert "Trial 2" in lines[0] and "0.3000" in lines[0] and "epoch 3" in lines[0] and "dropout 1" in lines[0]
    assert "(trial 0) has 0.2000, the best +0.1000" in lines[1]
    assert lines[2].startswith("4 configurations were tried with 9 epochs, 56 % of the 16")
    assert "1 were stopped early" in lines[2]
    assert "1 failed: training diverged: &lt;NaN&gt;" in lines[3]
    assert "3 seed(s) and tested once: NDCG@10 0.1230 ± 0.0040" in lines[4] and lines[4].endswith("HR@10 0.3000.")
    twice = findings({**about, "test": {**about["test"], "winners": 2}}, CONFIG, records)
    assert "2 of its winners were tested" in twice[4]
    same = findings({**about, "defaults": records[2].parameters, "test": None}, CONFIG, records)
    assert same[1].startswith("It is the student as it was configured")
    assert describe_spending(about, records[:1]).startswith("1 configurations were tried with 4 epochs, 100 %")


def test_overhead_is_what_was_not_training(records: list[Record]) -> None:
    busy = sum(e["train_seconds"] + e["valid_seconds"] for r in records for e in r.curve)
    assert overhead(records, 2) == pytest.approx(1 - busy / (2 * 45))


def test_the_page_stands_alone(about: dict[str, Any], records: list[Record], tmp_path: Path) -> None:
    write_report(tmp_path, about, CONFIG, records)
    page = (tmp_path / "sweep.html").read_text()
    names = ["best_so_far", "curves", "importance", "parallel_coordinates", "pareto_latency", "pareto_parameters"]
    assert sorted(p.stem for p in tmp_path.glob("*.png")) == names
    assert page.count("<svg") == 2 * len(names)
    assert "http://" not in page.replace("http://www.w3.org", "") and "<script" not in page and "<bce>" not in page
    assert "training diverged: &lt;NaN&gt;" in page


def test_lines_run_where_the_values_lie(records: list[Record]) -> None:
    axes = plots.draw_parallel_coordinates(records, CONFIG.parameters).axes[0]
    drawn = [[round(float(y), 6) for y in line.get_ydata()] for line in axes.lines]
    # From the worst to the best: dropout 0..1, rate 0.01..1 (log), blocks 1..3, one of two kinds, quality 0.1..0.3.
    assert drawn == [[0, 0, 0, 1, 0], [0.2, 0.5, 0.5, 0, 0.5], [1, 1, 1, 0, 1]]


def test_the_best_so_far_never_falls(records: list[Record]) -> None:
    line = plots.draw_best_so_far(records).axes[0].lines[0]
    assert list(line.get_ydata()) == [0.2, 0.2, 0.3]
    assert [round(60 * x) for x in line.get_xdata()] == [10, 20, 30]
