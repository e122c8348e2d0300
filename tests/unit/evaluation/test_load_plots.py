from typing import Any

import pytest

from recsys.evaluation.load_plots import draw_distribution, draw_frontier, draw_loads

LEVELS = [0.0, 50.0, 90.0, 99.0, 99.9, 100.0]


def load_row(
    p99: float = 10.0, *, keeps: bool = True, shed: int = 0, late: float = 0.5, **facts: Any
) -> dict[str, Any]:
    times = {f"p{level}_ms": p99 * level / 99 for level in (50, 90, 95, 99)}
    intervals = {name.replace("_ms", "_interval_ms"): [0.9 * value, 1.1 * value] for name, value in times.items()}
    return {
        "requests": 200, "answered": 200 - shed, "shed": shed, "timeouts": 0, "errors": {}, "rps": 10.0, **times,
        **intervals, "max_ms": 2 * p99, "keeps_objective": keeps,
        "client": {"busy": 0.1, "late_p50_ms": 0.1, "late_p99_ms": late, "lag_p99_ms": 0.2, "saturated": late > 5},
        **facts,
    }  # fmt: skip


@pytest.mark.parametrize("form", ["wide", "narrow"])
def test_loads_show_p99_and_are_hollow_where_too_few_were_answered(form: str) -> None:
    arms = {
        "teacher": [load_row(20.0, rate=10), load_row(900.0, rate=50, shed=80)],
        "student": [load_row(5.0, rate=10), load_row(6.0, rate=50)],
        "null": [{"rate": 10, "requests": 5, "answered": 0}],
    }
    figure = draw_loads(arms, "rate", 100, form)
    figure.canvas.draw()
    axes = figure.axes[0]
    points = [line for line in axes.lines if line.get_marker() == "o"]
    seen = {(line.get_xdata()[0], line.get_ydata()[0]): line.get_markerfacecolor() == "none" for line in points}
    assert seen == {(10, 20.0): False, (50, 900.0): True, (10, 5.0): False, (50, 6.0): False}
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["teacher", "student"], "null had no answer"


def test_the_distribution_ends_where_one_request_is_left() -> None:
    figure = draw_distribution({"student": [1.0, 2.0, 3.0, 8.0, 20.0, 500.0]}, LEVELS, 20)
    axes = figure.axes[0]
    assert list(axes.lines[0].get_xdata()) == [1.0, 2.0, 3.0] and axes.get_ylim()[0] == 0.05


def test_the_distribution_ends_where_one_in_a_thousand_is_left() -> None:
    figure = draw_distribution({"student": [1.0, 2.0, 3.0, 8.0, 20.0, 500.0]}, LEVELS, 100_000)
    (line,) = figure.axes[0].lines
    assert list(line.get_xdata())[-1] in (8.0, 20.0) and line.get_ydata()[1] == 0.5


def test_the_frontier_names_every_arm() -> None:
    arms = {arm: {"p50_ms": ms, "p99_ms": 3 * ms, "ndcg@10": 0.1} for arm, ms in (("teacher", 20.0), ("student", 2.0))}
    figure = draw_frontier(arms)
    figure.canvas.draw()
    axes = figure.axes[0]
    boxes = [text.get_window_extent() for text in axes.texts]
    edge = axes.get_window_extent()
    assert [text.get_text() for text in axes.texts] == ["teacher", "student"]
    assert not boxes[0].overlaps(boxes[1]) and all(edge.x0 <= box.x0 and box.x1 <= edge.x1 for box in boxes)
