"""The smallest depth that is good enough, in words and pictures."""

import io
from pathlib import Path
from typing import Any

import pytest

from recsys.evaluation.depth import print_study, recommend, sentence, write_pictures


def row(depth: int, way: str, quality: float, compressed: str = "", *, test: float | None = None) -> dict[str, Any]:
    return {
        "depth": depth,
        "way": way,
        "compressed": compressed,
        "valid": {"ndcg@10": quality, "hr@10": 2 * quality},
        "metrics": {"ndcg@10": test or 0.9 * quality, "hr@10": 1.8 * quality},
        "sampled": {"hr@1": 0.1, "mrr": 0.2},
        "latency": {"median_ms": 0.5 * depth},
        "parameters": {"served": 1000 * depth + 5000, "layers": 1000 * depth},
        "bytes": 4000 * depth + 20000,
    }


FULL = row(8, "full", 0.1)
ROWS = [
    FULL,
    row(1, "read-out", 0.02), row(1, "distilled", 0.098), row(1, "distilled", 0.1, "int8"),
    row(2, "read-out", 0.05), row(2, "alone", 0.0991), row(2, "distilled", 0.0995),
    row(4, "distilled", 0.103),
]  # fmt: skip


def study(tolerance: float) -> dict[str, Any]:
    return {
        "dataset": {"name": "made-up"},
        "test_rows": 50,
        "seen": "left out",
        "tolerance": tolerance,
        "full": FULL,
        "rows": ROWS,
        "recommended": recommend(ROWS, FULL, tolerance),
        "conditions": {"date": "2026-01-01", "versions": {"torch": "2"}, "hardware": {"cores": 2}},
    }


@pytest.mark.parametrize(
    ("tolerance", "depth", "way"),
    [(0, 4, "distilled"), (1, 2, "distilled"), (2.5, 1, "distilled"), (90, 1, "distilled")],
)
def test_the_smallest_depth_within_the_tolerance(tolerance: float, depth: int, way: str) -> None:
    chosen = recommend(ROWS, FULL, tolerance)
    assert (chosen["depth"], chosen["way"], chosen["compressed"]) == (depth, way, "")


def test_test_rows_have_no_part_in_the_choice() -> None:
    tempting = [row(1, "alone", 0.02, test=0.2), row(2, "alone", 0.1, test=0.01), row(2, "distilled", 0.099, test=0.2)]
    assert recommend([FULL, *tempting], FULL, 1) == tempting[1]


def test_where_nothing_is_good_enough_it_is_all_of_them() -> None:
    assert recommend([row(4, "alone", 0.05)], FULL, 1) == FULL
    assert "no smaller depth tried" in sentence({"full": FULL, "recommended": FULL, "tolerance": 1})


def test_words() -> None:
    expected = (
        "recommended: 2 of 8 layers, distilled: NDCG@10 0.0995 (-0.5 %) on validation, 0.0896 (-0.5 %) on test, "
        "4.0 times as fast"
    )
    assert sentence(study(1)) == expected
    output = io.StringIO()
    print_study(study(1), output)
    assert expected in output.getvalue() and "distilled, int8" in output.getvalue()
    assert all(len(line) <= 120 for line in output.getvalue().splitlines())


def test_pictures(tmp_path: Path) -> None:
    write_pictures(tmp_path, study(1))
    assert (tmp_path / "depth.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "depth.html").read_text()
    assert "Recommended: 2 of 8 layers" in page and page.count('<tr class="strong">') == 1
    assert page.count("<svg") == 2 and "retrained alone" in page
