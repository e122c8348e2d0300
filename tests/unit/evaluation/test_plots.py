import itertools
from pathlib import Path

import numpy as np
import pytest

from recsys.evaluation.plots import (
    colour_arms,
    draw_arm_latency,
    draw_quality_latency,
    place_labels,
    series,
    to_svg,
    write_png,
)


def row(name: str, ms: float, quality: float, role: str = "student", twin: str | None = None) -> dict:
    metrics = {"masked": {"ndcg@10": quality}, "unmasked": {"ndcg@10": quality / 2}}
    latency = {"median_ms": ms}
    return {
        "name": name, "role": role, "distilled": twin is not None, "twin": twin, "metrics": metrics, "latency": latency
    }  # fmt: skip


# As close together as real students of one size are.
ROWS = [
    row("recent-popularity", 0.02, 0.04, "baseline"),
    row("co-occurrence", 0.25, 0.106, "baseline"),
    row("gru4rec", 0.60, 0.0722),
    row("gru4rec-distilled", 0.59, 0.0793, twin="gru4rec"),
    row("sasrec", 0.61, 0.0762),
    row("sasrec-distilled", 0.58, 0.0771, twin="sasrec"),
    row("teacher", 12.0, 0.08, "teacher"),
]


def test_kinds_of_points() -> None:
    assert [series(r) for r in ROWS] == ["baseline"] * 2 + ["alone", "distilled"] * 2 + ["teacher"]


@pytest.mark.parametrize("form", ["wide", "narrow"])
def test_labels_overlap_neither_each_other_nor_points_nor_the_edge(form: str) -> None:
    figure = draw_quality_latency(ROWS, "masked", form)
    figure.canvas.draw()
    axes = figure.axes[0]
    labels = [text for text in axes.texts if text.get_text()]
    assert sorted(text.get_text() for text in labels) == sorted(r["name"] for r in ROWS)
    boxes = [text.get_window_extent() for text in labels]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    for r in ROWS:
        point = axes.transData.transform((r["latency"]["median_ms"], r["metrics"]["masked"]["ndcg@10"]))
        assert not any(box.contains(*point) for box in boxes)
    edge = axes.get_window_extent()
    assert all(box.x0 >= edge.x0 and box.x1 <= edge.x1 and box.y1 <= edge.y1 for box in boxes)


def test_labels_of_one_place_spread_out() -> None:
    figure = draw_quality_latency([row(f"model number {n}", 1.0, 0.1) for n in range(6)], "masked")
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    assert place_labels(figure.axes[0], [], []) == []


def test_same_results_same_svg_with_ids_of_its_own() -> None:
    first, again = (to_svg(draw_quality_latency(ROWS, "masked"), "one") for _ in range(2))
    assert first == again
    assert first.startswith("<svg") and "currentColor" in first and "var(--line)" in first
    assert 'id="one-' in first and "<metadata" not in first
    other = to_svg(draw_quality_latency(ROWS, "masked"), "two")
    assert 'id="one-' not in other and 'href="#one-' not in other


def test_png_has_a_white_ground(tmp_path: Path) -> None:
    from matplotlib.image import imread

    arms = {
        name: {"p50_ms": p, "p95_ms": 2 * p, "p99_ms": 3 * p, "model_p50_ms": p / 4}
        for name, p in (("teacher", 8.0), ("student", 2.0), ("null", 1.0))
    }
    write_png(draw_arm_latency(arms), tmp_path / "ab.png")
    pixels = imread(tmp_path / "ab.png")
    assert pixels.shape[0] > 200 and pixels.shape[1] > 1000
    assert np.allclose(pixels[0, 0], 1)


def test_further_arms_have_colours_of_their_own_and_the_others_keep_theirs() -> None:
    three = colour_arms(["teacher", "student", "null"])
    five = colour_arms(["teacher", "student", "b", "a", "null"])
    assert {arm: five[arm] for arm in three} == three and len(set(five.values())) == 5
