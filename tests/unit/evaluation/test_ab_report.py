import re
from pathlib import Path
from typing import Any

from recsys.evaluation.ab_report import write_ab_report
from tests.unit.evaluation.test_load_plots import LEVELS, load_row


def measured(**more: Any) -> dict[str, Any]:
    arms = {
        arm: {"p50_ms": ms, "p95_ms": 2 * ms, "p99_ms": 3 * ms} for arm, ms in (("teacher", 20.0), ("student", 2.0))
    }
    return {
        "arms": arms,
        "distribution": {"levels": LEVELS, "arms": {arm: [row["p50_ms"]] * len(LEVELS) for arm, row in arms.items()}},
        "conditions": {
            "requests": 300, "concurrency": 1, "k": 10, "proxy": "serve", "date": "2026-11-30",
            "versions": {"python": "3.11"}, "hardware": {"processor": "<p>", "cores": 2, "memory_gb": 24.0},
        },
        **more,
    }  # fmt: skip


def load() -> dict[str, Any]:
    rows = {
        "teacher": [load_row(rate=10, p99=150.0, keeps=False, shed=7)],
        "student": [load_row(rate=10, p99=9.0, keeps=True, late=12.0, cpu_seconds_per_million=7200.0)],
    }
    facts = {"objective": {"p99_ms": 100.0, "failed": 0.01}, "seconds": 20, "settle": 3, "timeout": 5, "clients": 2}
    return {"open_loop": {"arms": rows, "highest": {"teacher": None, "student": 10}}, **facts}


def test_the_page_says_what_was_measured_and_loads_nothing(tmp_path: Path) -> None:
    quality = {"teacher": 0.1, "student": 0.12}
    write_ab_report(tmp_path, measured(load=load(), quality=quality), "shop <b>", core_hour=0.05)
    text = (tmp_path / "ab_report.html").read_text()
    assert "The teacher arm keeps 99 % within 100 ms, and less than 1 % unanswered, at none of the rates" in text
    assert "up to 10 requests a second (the highest that was tried)" in text
    assert "the times are an upper bound" in text and "12.0 ms (saturated)" in text
    assert '<td data-label="Cost / million">0.1</td>' in text and '<td data-label="Shed">7</td>' in text
    assert "<b>" not in text and "&lt;p&gt;" in text and not re.search(r'(?:src|href)="(?!#)', text)
    names = {path.stem for path in tmp_path.glob("*.png")}
    assert names == {"ab_distribution", "ab_open_loop", "ab_frontier"}


def test_without_load_or_ladder_the_rest_is_told(tmp_path: Path) -> None:
    write_ab_report(tmp_path, measured(), "shop")
    text = (tmp_path / "ab_report.html").read_text()
    assert "Distribution of latency" in text and "Under load" not in text and "Quality against latency" not in text


def test_an_arm_that_was_not_evaluated_is_named(tmp_path: Path) -> None:
    write_ab_report(tmp_path, measured(quality={"teacher": 0.1}), "shop")
    text = (tmp_path / "ab_report.html").read_text()
    assert "teacher 0.1000 at 20" in text and "Not evaluated: student." in text
