"""Pictures of the arms under load, drawn from `ab.json` alone, in the style of `recsys.evaluation.plots`."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from recsys.evaluation.plots import INK, colour_arms, new_axes, set_plain_log_axis

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LEAST = 1e-3  # share of the slowest requests that is shown


def draw_distribution(
    arms: Mapping[str, Sequence[float]], levels: Sequence[float], requests: int, form: str = "wide"
) -> "Figure":
    """Which share of the requests took longer than so many milliseconds; both axes logarithmic, so that the slow ones
    are seen.

    Args:
        arms: arm → milliseconds at each of `levels` (percentiles).
        requests: of each arm; less than one of them is no share to speak of.
    """
    figure, axes = new_axes(form)
    least = max(_LEAST, 1 / requests)
    axes.set_xscale("log")
    axes.set_yscale("log")
    colours = colour_arms(arms)
    for arm, milliseconds in arms.items():
        slower = [1 - level / 100 for level in levels]
        points = [(ms, share) for ms, share in zip(milliseconds, slower, strict=True) if share >= least]
        axes.plot(*zip(*points, strict=True), color=colours[arm], linewidth=2, label=arm)
    axes.set_ylim(least, 1.1)
    set_plain_log_axis(axes)
    ticks = {1: "all", 0.5: "50 %", 0.1: "10 %", 0.05: "5 %", 0.01: "1 %", 0.001: "0.1 %"}
    axes.set_yticks(*zip(*((share, text) for share, text in ticks.items() if share >= least), strict=True))
    axes.minorticks_off()
    axes.set_xlabel("milliseconds (log)")
    axes.set_ylabel("requests that took longer (log)")
    axes.legend(frameon=False, labelcolor=INK)
    return figure


def draw_loads(
    arms: Mapping[str, Sequence[Mapping[str, Any]]], load: str, objective_ms: float, form: str = "wide"
) -> "Figure":
    """p50 (thin) and p99 (thick, with its interval) of every arm against the load; hollow where 1 % or more of the
    requests got no answer.

    Args:
        arms: arm → rows of `recsys.serving.load.summarise`.
        load: `rate` or `connections`.
    """
    figure, axes = new_axes(form)
    axes.set_yscale("log")
    colours = colour_arms(arms)
    for arm, all_rows in arms.items():
        rows = [row for row in all_rows if "p99_ms" in row]
        if not rows:
            continue
        xs, colour = [row[load] for row in rows], colours[arm]
        axes.plot(xs, [row["p50_ms"] for row in rows], color=colour, linewidth=1, linestyle="--")
        axes.plot(xs, [row["p99_ms"] for row in rows], color=colour, linewidth=2, label=arm)
        low, high = zip(*(row["p99_interval_ms"] for row in rows), strict=True)
        axes.fill_between(xs, low, high, color=colour, alpha=0.15, linewidth=0)
        for x, row in zip(xs, rows, strict=True):
            whole = row["answered"] > 0.99 * row["requests"]
            axes.plot(x, row["p99_ms"], "o", markersize=7, color=colour, markerfacecolor=colour if whole else "none")
    axes.axhline(objective_ms, color=INK, linewidth=1, linestyle=":")
    axes.set_xlim(left=0)
    set_plain_log_axis(axes, "y")
    axes.set_xlabel("requests a second" if load == "rate" else "connections")
    axes.set_ylabel("milliseconds: p99, dashed p50 (log)")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False, labelcolor=INK)
    return figure


def draw_frontier(arms: Mapping[str, Mapping[str, float]], form: str = "wide") -> "Figure":
    """NDCG@10 on test against the latency of each arm: a dot at p50, a line to p99; up and to the left is better.

    Args:
        arms: arm → `ndcg@10`, `p50_ms`, `p99_ms`.
    """
    figure, axes = new_axes(form)
    axes.set_xscale("log")
    colours = colour_arms(arms)
    for arm, row in arms.items():
        colour, y = colours[arm], row["ndcg@10"]
        axes.plot([row["p50_ms"], row["p99_ms"]], [y, y], color=colour, linewidth=2, alpha=0.5)
        axes.plot(row["p50_ms"], y, "o", color=colour, markersize=9)
        axes.plot(row["p99_ms"], y, "|", color=colour, markersize=14, markeredgewidth=2)
        axes.annotate(arm, (row["p50_ms"], y), (0, 9), textcoords="offset points", ha="center", color=INK)
    axes.set_xlim(min(row["p50_ms"] for row in arms.values()) / 1.6, max(row["p99_ms"] for row in arms.values()) * 1.6)
    axes.set_ylim(0, 1.25 * max(row["ndcg@10"] for row in arms.values()) or 1)
    set_plain_log_axis(axes)
    axes.set_xlabel("milliseconds over HTTP, p50 to p99 (log)")
    axes.set_ylabel("NDCG@10 on test")
    return figure
