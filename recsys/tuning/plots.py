"""The pictures of a sweep, drawn from its records alone."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from recsys.evaluation.plots import COLOURS, GRID, INK, new_axes, place_labels
from recsys.tuning.config import Choice, IntRange, Parameter
from recsys.tuning.records import Record, best, front, short_names, show

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BEST, _OTHER = COLOURS["distilled"], COLOURS["baseline"]


def draw_best_so_far(records: Sequence[Record], form: str = "wide") -> "Figure":
    """The best validation quality against the time of the sweep; a dot for every trial where it ended."""
    figure, axes = new_axes(form)
    ended = sorted((r for r in records if r.quality is not None), key=lambda record: record.elapsed)
    leader, xs, ys = float("-inf"), [], []
    for record in ended:
        leader = max(leader, record.quality or leader)
        xs.append(record.elapsed / 60)
        ys.append(leader)
    axes.step(xs, ys, where="post", color=_BEST, linewidth=2, label="best so far", zorder=2)
    for finished, fill, label in ((True, _OTHER, "ran to its end"), (False, "none", "stopped early")):
        chosen = [record for record in ended if (record.status == "finished") == finished]
        axes.plot(
            [record.elapsed / 60 for record in chosen],
            [record.quality or 0.0 for record in chosen],
            "o",
            markersize=6,
            markerfacecolor=fill,
            markeredgecolor=_OTHER,
            label=label,
            zorder=3,
        )
    axes.set_xlim(left=0)
    axes.set_xlabel("minutes of the sweep")
    axes.set_ylabel(f"{_metric(records)} on validation")
    _legend(axes, form, columns=3)
    return figure


def draw_curves(records: Sequence[Record], form: str = "wide") -> "Figure":
    """Validation quality after each epoch, one line per trial: what the stopping saw."""
    from matplotlib.ticker import MaxNLocator

    figure, axes = new_axes(form)
    winner = best(records)
    for record in sorted(records, key=lambda r: r is winner):
        if not record.curve:
            continue
        xs = [epoch["epoch"] for epoch in record.curve]
        ys = [epoch[f"valid_{record.metric}"] for epoch in record.curve]
        colour, width = (_BEST, 2.2) if record is winner else (_OTHER, 1)
        axes.plot(xs, ys, color=colour, linewidth=width, alpha=1 if record is winner else 0.7)
        axes.plot(xs[-1], ys[-1], "o", color=colour, markersize=4 if record is winner else 3)
    if winner is not None:
        axes.plot([], [], color=_BEST, linewidth=2.2, label=f"the best, trial {winner.number}")
    axes.plot([], [], color=_OTHER, label="other trials")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("epoch (a dot marks the last)")
    axes.set_ylabel(f"{_metric(records)} on validation")
    _legend(axes, form, columns=2)
    return figure


def draw_importance(shares: Mapping[str, float], form: str = "wide") -> "Figure":
    """The share of the variance of quality that each parameter explains, a bar each."""
    figure, axes = new_axes(form, height=0.9 + 0.36 * len(shares))
    names = short_names(shares)
    ordered = sorted(shares, key=lambda key: shares[key])
    axes.barh([names[key] for key in ordered], [100 * shares[key] for key in ordered], color=_BEST, height=0.6)
    for place, key in enumerate(ordered):
        axes.annotate(
            f"{100 * shares[key]:.0f}",
            (100 * shares[key], place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
            color=INK,
        )
    axes.grid(axis="y", visible=False)
    axes.set_xlim(0, 100 * max(shares.values()) * 1.12)
    axes.set_xlabel("% of the variance of quality" + (" (fANOVA)" if form == "wide" else ""))
    return figure


def draw_parallel_coordinates(
    records: Sequence[Record], parameters: Mapping[str, Parameter], form: str = "wide"
) -> "Figure":
    """One line per trial through its values, the better the stronger; the last axis is quality.

    On a narrow page the axes lie one below the other.
    """
    from matplotlib.colors import LinearSegmentedColormap

    narrow = form == "narrow"
    shown = sorted((r for r in records if r.quality is not None), key=lambda record: record.quality or 0)
    names = [*short_names(parameters).values(), _metric(records)]
    figure, axes = new_axes(form, height=0.62 * len(names) + 0.8 if narrow else 4.6)
    low, high = (min(r.quality or 0 for r in shown), max(r.quality or 0 for r in shown)) if shown else (0, 1)
    colours = LinearSegmentedColormap.from_list("sweep", [GRID, _OTHER, _BEST])
    places = range(len(names))
    for rank, record in enumerate(shown):
        quality = (record.quality or 0) - low
        heights = [_place(parameters[key], record.chosen[key]) for key in parameters]
        heights.append(quality / (high - low) if high > low else 0.5)
        last = rank == len(shown) - 1
        axes.plot(
            *((heights, places) if narrow else (places, heights)),
            color=colours(rank / max(1, len(shown) - 1)),
            linewidth=2.6 if last else 1.2,
            alpha=1 if last else 0.85,
            zorder=2 + rank / len(shown),
        )
    for place, parameter in zip(places, [*parameters.values(), None], strict=True):
        ends = [f"{low:.4f}", f"{high:.4f}"] if parameter is None else _ends(parameter)
        for height, text in zip((0, 1), ends, strict=True):
            axes.annotate(
                text,
                (height, place) if narrow else (place, height),
                xytext=((-1 if height == 0 else 1) * 6, 0) if narrow else (0, -6 if height == 0 else 6),
                textcoords="offset points",
                ha=("right" if height == 0 else "left") if narrow else "center",
                va="center" if narrow else ("top" if height == 0 else "bottom"),
                fontsize=8,
                color=INK,
            )
    if narrow:
        axes.set_yticks(list(places), names, fontsize=8)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_xlim(-0.22, 1.22)
        axes.set_xticks([])
        axes.grid(axis="x", visible=False)
    else:
        axes.set_xticks(list(places), names, fontsize=9, rotation=20, ha="right", rotation_mode="anchor")
        axes.set_xlim(-0.4, len(names) - 0.6)
        axes.set_ylim(-0.12, 1.12)
        axes.set_yticks([])
        axes.grid(axis="y", visible=False)
    for side in axes.spines.values():
        side.set_visible(False)
    return figure


def draw_pareto(records: Sequence[Record], cost: str, form: str = "wide") -> "Figure":
    """Quality against what serving costs; the line joins the trials that no other beats in both.

    Args:
        cost: "latency" or "parameters".
    """
    from matplotlib.ticker import EngFormatter, MaxNLocator

    figure, axes = new_axes(form)
    points = [(r.objective(cost), r.quality, r) for r in records if r.objective(cost) and r.quality is not None]
    leaders = front(records, cost)
    axes.plot(
        [x or 0.0 for x, _, _ in points],
        [y or 0.0 for _, y, _ in points],
        "o",
        markersize=6,
        markerfacecolor="none",
        markeredgecolor=_OTHER,
        label="trials",
    )
    places = [(float(r.objective(cost) or 0), float(r.quality or 0)) for r in leaders]
    axes.plot(*zip(*places, strict=True), "o-", color=_BEST, markersize=8, linewidth=1.8, label="not beaten in both")
    axes.set_xlim(0, max(float(x or 0) for x, _, _ in points) * 1.15)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    if cost == "parameters":
        axes.xaxis.set_major_formatter(EngFormatter())
    what = {"latency": "milliseconds for one history (median)", "parameters": "numbers served"}
    axes.set_xlabel(what[cost])
    axes.set_ylabel(f"{_metric(records)} on validation")
    _legend(axes, form, columns=2)
    place_labels(axes, places, [f"trial {record.number}" for record in leaders])
    return figure


def _place(parameter: Parameter, value: Any) -> float:
    """Where on its axis a value lies, 0 to 1."""
    from math import log

    if isinstance(parameter, Choice):
        return parameter.values.index(value) / max(1, len(parameter.values) - 1)
    if parameter.kind == "loguniform":
        return log(value / parameter.low) / log(parameter.high / parameter.low)
    return float((value - parameter.low) / (parameter.high - parameter.low))


def _ends(parameter: Parameter) -> list[str]:
    if isinstance(parameter, Choice):
        return [show(parameter.values[0]), show(parameter.values[-1])]
    log = " (log)" if parameter.kind == "loguniform" else ""
    return [str(parameter.low) if isinstance(parameter, IntRange) else show(parameter.low), show(parameter.high) + log]


def _metric(records: Sequence[Record]) -> str:
    return records[0].metric.upper()


def _legend(axes: "Axes", form: str, *, columns: int) -> None:
    axes.legend(
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
        ncols=columns if form == "wide" else min(2, columns),
        frameon=False,
        labelcolor=INK,
    )
