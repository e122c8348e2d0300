import copy
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch

from recsys import environment
from recsys.data.prepared import PreparedDataset
from recsys.evaluation.ladder import build_rows
from recsys.evaluation.report import findings, write_report
from recsys.evaluation.results import Ranks, Result, evaluate

ROLES = {"co-occurrence": "baseline", "sasrec": "student", "sasrec-distilled": "student", "teacher": "teacher"}
ARM = {
    "requests": 300,
    "errors": 2,
    "p50_ms": 8.0,
    "p95_ms": 9.0,
    "p99_ms": 12.5,
    "model_p50_ms": 2.0,
    "model_p99_ms": 3,
}
AB: dict[str, Any] = {
    "arms": {"teacher": ARM, "student": {**ARM, "p50_ms": 4.0}, "null": {**ARM, "p50_ms": 3.0, "model_p50_ms": 0.0}},
    "ratios": {"teacher_over_student": 2.0, "student_minus_null_ms": 1.0},
    "conditions": {"requests": 300, "concurrency": 1, "proxy": "ray"},
}
VOID = {"meta", "br", "link"}


@pytest.fixture
def evaluated(random_dataset: PreparedDataset) -> tuple[dict[str, Any], dict[str, Result]]:
    results: dict[str, Result] = {}
    ranks: dict[str, Ranks] = {}
    for seed, (name, role) in enumerate(ROLES.items()):
        distillation = {"ranking": {}} if name.endswith("distilled") else None
        curve = [{"epoch": n, "valid_ndcg@10": n / 10} for n in (1, 2, 3)]
        results[name], ranks[name] = evaluate(
            lambda shown, seed=seed: torch.rand(len(shown), 26, generator=torch.Generator().manual_seed(seed)),
            random_dataset, "test", batch_size=64, name=name, role=role, kind=name, key="", seed=seed,
            checkpoint_hash="abc", parameters={"trainable": 5, "served": 10},
            training={
                "settings": {"loss": {"kind": "softmax"}, "distillation": distillation},
                "training": {"best_epoch": 2, "epochs": 3, "valid": {"ndcg@10": 0.2}, "curve": curve},
            },
        )  # fmt: skip
    latency = {name: {"median_ms": 0.5 + n, "p95_ms": 1.0, "requests": 9.0} for n, name in enumerate(ROLES)}
    twins = {"sasrec-distilled": "sasrec"}
    rows = build_rows(list(results.values()), ranks, latency, twins, random_dataset, bootstrap_samples=100)
    conditions = {
        "date": "2026-01-02T03:04:05+00:00",
        "versions": environment.versions(),
        "hardware": environment.hardware(),
        "evaluation": {
            "recent_days": 30.0, "cooccurrence": {"window": 10}, "bootstrap_samples": 100, "latency_requests": 9
        },
    }  # fmt: skip
    ladder = {
        "key": "", "mask_seen": True, "dataset": random_dataset.describe(), "test_rows": 40, "rows": rows,
        "conditions": conditions,
    }  # fmt: skip
    return ladder, results


class Checker(HTMLParser):
    """Every tag closed, ids unique, nothing fetched; collects the text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.words: list[str] = []
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        assert tag not in ("script", "img", "iframe")
        assert not {"src", "srcset"} & set(given)
        for name in ("href", "xlink:href"):
            assert (given.get(name) or "#").startswith("#")
        if "id" in given:
            self.ids.append(str(given["id"]))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "svg"} & set(self.open):
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


def written(tmp_path: Path, *args: Any) -> Checker:
    write_report(tmp_path, *args)
    return Checker((tmp_path / "report.html").read_text())


def test_one_file_with_everything_in_it(evaluated: tuple[dict, dict], tmp_path: Path) -> None:
    ladder, results = evaluated
    page = written(tmp_path, ladder, results, AB)
    assert len(page.ids) == len(set(page.ids))
    assert "url(http" not in (tmp_path / "report.html").read_text()
    for row in ladder["rows"]:
        assert f"{row['metrics']['masked']['ndcg@10']:.4f}" in page.text
        assert f"{row['metrics']['unmasked']['mrr']:.4f}" in page.text
    for expected in ("Quality ladder", "Arms side by side", "Training", "Conditions", ladder["dataset"]["fingerprint"]):
        assert expected in page.text
    assert "the teacher takes 2.00 times as long as the student" in page.text
    assert {p.name for p in tmp_path.glob("*.png")} == {
        "quality_latency.png", "ab_latency.png", "learning_curves.png"
    }  # fmt: skip


def test_without_ab_and_curves(evaluated: tuple[dict, dict], tmp_path: Path) -> None:
    ladder, results = evaluated
    for result in results.values():
        result.training["training"].pop("curve")
    ladder["dataset"]["name"] = "<b>shop & co"
    page = written(tmp_path, ladder, results)
    assert "<b>shop & co: quality" in page.text  # names are escaped
    assert "Arms side by side" not in page.text and "epoch (a dot" not in page.text
    assert {p.name for p in tmp_path.glob("*.png")} == {"quality_latency.png"}


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (0.001, 0.02, "excludes zero."),
        (-0.02, -0.001, "excludes zero."),
        (-0.001, 0.02, "includes zero: this difference"),
    ],
)
def test_says_when_a_difference_may_be_chance(evaluated: tuple[dict, dict], low: float, high: float, said: str) -> None:
    ladder = copy.deepcopy(evaluated[0])
    row = next(row for row in ladder["rows"] if row["twin"])
    row["difference"]["masked"] |= {"difference": (low + high) / 2, "low": low, "high": high}
    assert said in findings(ladder)[0]


def test_says_which_models_counting_beats(evaluated: tuple[dict, dict]) -> None:
    ladder = copy.deepcopy(evaluated[0])
    for row in ladder["rows"]:
        row["metrics"]["masked"]["ndcg@10"] = {"co-occurrence": 0.2, "teacher": 0.3}.get(row["name"], 0.1)
    assert findings(ladder)[-1].endswith("reaches 0.2000; below it: sasrec, sasrec-distilled.")


@pytest.mark.parametrize(("last", "said"), [(886_011_648, "1997-11-20, 1998-01-28"), (880_042_402_000, None)])
def test_dates_are_shown_where_times_are_seconds(
    evaluated: tuple[dict, dict], tmp_path: Path, last: int, said: str | None
) -> None:
    ladder, results = evaluated
    ladder["dataset"]["facts"] = {"first_timestamp": 880_042_402, "last_timestamp": last}
    for row in ladder["rows"]:
        row["latency"] = {}
    for result in results.values():
        result.training["training"].pop("curve")
    text = written(tmp_path, ladder, results).text
    assert said in text if said else "From, to" not in text
