"""The report's pictures, drawn from results files alone: as PNG on white, and as SVG that takes the page's colours."""

import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recsys.evaluation.page import figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Series colours keep a contrast of 3:1 both on white and on the page's dark background.
COLOURS = {"baseline": "#808790", "alone": "#3f83d1", "distilled": "#d2691e", "teacher": "#9a6dd7"}
_MARKERS = {"baseline": "s", "alone": "o", "distilled": "o", "teacher": "D"}
_NAMES = {"baseline": "counting", "alone": "student alone", "distilled": "student distilled", "teacher": "teacher"}
INK, GRID = "#010203", "#c9ced6"  # in SVG replaced by what the page says
_FURTHER_ARMS = (COLOURS["alone"], "#2f9270", "#c4569b", "#9a8420")
_SIZES = {"wide": (8.4, 4.6), "narrow": (4.2, 4.6)}
_WAYS = {
    "read-out": (COLOURS["baseline"], "s--"),
    "alone": (COLOURS["alone"], "o-"),
    "distilled": (COLOURS["distilled"], "o-"),
}
_WAY_NAMES = {"read-out": "read out, not retrained", "alone": "retrained alone", "distilled": "distilled"}
_OFFSETS = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1))


def series(row: Mapping[str, Any]) -> str:
    """Which of the four kinds of point a row of the ladder is."""
    if row["role"] != "student":
        return str(row["role"])
    return "distilled" if row["distilled"] else "alone"


def draw_quality_latency(rows: Sequence[Mapping[str, Any]], rule: str, form: str = "wide") -> "Figure":
    """NDCG@10 against the median milliseconds of one history (log), a distilled student tied to itself alone."""
    figure, axes = new_axes(form)
    points = {row["name"]: (row["latency"]["median_ms"], row["metrics"][rule]["ndcg@10"]) for row in rows}
    axes.set_xscale("log")
    for row in rows:
        if row["twin"] in points:
            axes.annotate(
                "",
                points[row["name"]],
                points[row["twin"]],
                arrowprops={
                    "arrowstyle": "->",
                    "color": COLOURS["distilled"],
                    "alpha": 0.6,
                    "shrinkA": 5,
                    "shrinkB": 5,
                },
            )
    drawn = set()
    for row in rows:
        kind = series(row)
        axes.plot(
            *points[row["name"]],
            marker=_MARKERS[kind],
            markersize=8,
            linestyle="none",
            markerfacecolor="none" if kind == "alone" else COLOURS[kind],
            markeredgecolor=COLOURS[kind],
            markeredgewidth=1.8,
            label=None if kind in drawn else _NAMES[kind],
            zorder=3,
        )
        drawn.add(kind)
    xs, ys = zip(*points.values(), strict=True)
    axes.set_xlim(min(xs) / 2, max(xs) * 2)
    axes.set_ylim(0, 1.25 * max(ys) or 1)
    set_plain_log_axis(axes)
    axes.set_xlabel("milliseconds for one history" + (", one thread (median, log)" if form == "wide" else " (log)"))
    axes.set_ylabel("NDCG@10 on test")
    axes.legend(
        loc="upper center",
        bbox_to_anchor=(0.5, 1.14 if form == "wide" else 1.22),
        ncols=4 if form == "wide" else 2,
        frameon=False,
        labelcolor=INK,
    )
    place_labels(axes, list(points.values()), list(points))
    return figure


def draw_depth_curves(study: Mapping[str, Any], form: str = "wide") -> "Figure":
    """NDCG@10, median milliseconds of one history and numbers served, each against the layers kept.

    Args:
        study: as in `depth.json` (`recsys.evaluation.depth`).
    """
    from matplotlib.ticker import FixedLocator, NullFormatter, StrMethodFormatter

    panels = ("NDCG@10 on test", "milliseconds for one history", "million numbers served")
    figure, several = make_panels(form, len(panels))
    depths = sorted({row["depth"] for row in study["rows"]})
    for axes, label in zip(several, panels, strict=True):
        for way, (colour, marker) in _WAYS.items():
            shown = (row for row in study["rows"] if row["way"] in (way, "full") and not row["compressed"])
            rows = sorted(shown, key=lambda row: row["depth"])
            if all(row["way"] == "full" for row in rows):
                continue
            values = [
                (row["metrics"]["ndcg@10"], row["latency"]["median_ms"], row["parameters"]["served"] / 1e6)[
                    panels.index(label)
                ]
                for row in rows
            ]
            axes.plot(
                [row["depth"] for row in rows], values, marker, color=colour, linewidth=1.8, label=_WAY_NAMES[way]
            )
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_locator(FixedLocator(depths))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.margins(y=0.1)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("layers")
        axes.set_ylabel(label)
    quality = several[0]
    whole = study["full"]["metrics"]["ndcg@10"]
    quality.axhline(whole * (1 - study["tolerance"] / 100), color=INK, linewidth=0.8, linestyle=":")
    quality.legend(frameon=False, labelcolor=INK, fontsize="small", loc="lower right")
    return figure


def draw_learning_curves(curves: Mapping[str, Sequence[Mapping[str, float]]], form: str = "wide") -> "Figure":
    """NDCG@10 on validation after each epoch; a dot marks the best one.

    Args:
        curves: name → one record per epoch (`recsys.training.loop.Progress.curve`).
    """
    from matplotlib import colormaps
    from matplotlib.ticker import MaxNLocator

    figure, axes = new_axes(form)
    colours = [colormaps["tab10"](number) for number in range(10)]
    for number, (name, curve) in enumerate(curves.items()):
        epochs = [record["epoch"] for record in curve]
        values = [record["valid_ndcg@10"] for record in curve]
        colour = colours[number % len(colours)]
        style = "-" if number < len(colours) else "--"
        axes.plot(epochs, values, style, color=colour, linewidth=1.8, label=name)
        best = max(range(len(values)), key=values.__getitem__)
        axes.plot(epochs[best], values[best], "o", color=colour, markersize=6)
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("epoch (a dot marks the best)")
    axes.set_ylabel("NDCG@10 on validation")
    axes.legend(frameon=False, labelcolor=INK, fontsize="small", ncols=1 if form == "wide" else 2, loc="lower right")
    return figure


def colour_arms(arms: Iterable[str]) -> dict[str, str]:
    """Arm → colour: those of teacher, student and null are the same in every picture, further ones take turns."""
    known = {"teacher": COLOURS["teacher"], "student": COLOURS["distilled"], "null": COLOURS["baseline"]}
    turns = cycle(_FURTHER_ARMS)
    return {arm: known[arm] if arm in known else next(turns) for arm in arms}


def draw_arm_latency(arms: Mapping[str, Mapping[str, float]], form: str = "wide") -> "Figure":
    """End-to-end p50, p95 and p99 of every arm (log), with the median model time."""
    figure, axes = new_axes(form, height=0.7 + 0.62 * len(arms) + 0.9)
    colours = colour_arms(arms)
    names = list(arms)
    for y, name in enumerate(names):
        arm, colour = arms[name], colours[name]
        axes.plot([arm["p50_ms"], arm["p99_ms"]], [y, y], color=colour, linewidth=2, alpha=0.5)
        for quantile, marker, size in (("p50_ms", "o", 9), ("p95_ms", "|", 14), ("p99_ms", "|", 14)):
            axes.plot(arm[quantile], y, marker=marker, color=colour, markersize=size, markeredgewidth=2)
        if name != "null":  # it has no model, and its nothing would stretch the axis
            axes.plot(arm["model_p50_ms"], y, marker="o", markersize=9, markerfacecolor="none", color=colour)
    axes.set_xscale("log")
    set_plain_log_axis(axes)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    handles = [
        axes.plot([], [], marker="o", color=INK, linestyle="none", label="end-to-end p50 (bars: p95, p99)")[0],
        axes.plot([], [], marker="o", markerfacecolor="none", color=INK, linestyle="none", label="model time p50")[0],
    ]
    axes.legend(
        handles=handles,
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
        ncols=2 if form == "wide" else 1,
        frameon=False,
        labelcolor=INK,
    )
    axes.set_xlabel("milliseconds (log scale)")
    return figure


def place_labels(axes: "Axes", points: Sequence[tuple[float, float]], texts: Sequence[str]) -> list[Any]:
    """Write each text beside its point, so that no two texts overlap and none covers a point or leaves the axes.

    Tries places around the point, near ones first, and takes the one with the least overlap; a text that had to move
    away is tied to its point by a line. Returns the texts.
    """
    from matplotlib.transforms import Bbox

    figure = axes.figure
    figure.canvas.draw()
    unit = figure.dpi / 72
    inside = axes.get_window_extent()
    centres = axes.transData.transform(list(points))
    taken = [Bbox.from_bounds(x - 6 * unit, y - 6 * unit, 12 * unit, 12 * unit) for x, y in centres]
    labels = []
    # From the outside in: points at the edge have the fewest places.
    order = sorted(range(len(points)), key=lambda i: -abs(centres[i][0] - inside.x0 - inside.width / 2))
    for i in order:
        label = axes.annotate(texts[i], points[i], xytext=(0, 0), textcoords="offset points", fontsize=9, color=INK)
        size = label.get_window_extent()
        best, least = (0.0, 0.0), float("inf")
        for distance in (9, 15, 24, 36, 50, 66):
            for dx, dy in _OFFSETS:
                # Offset of the lower left corner, such that the text lies beyond `distance` in that direction.
                x = dx * distance * unit - (size.width if dx < 0 else size.width / 2 if dx == 0 else 0)
                y = dy * distance * unit * 0.8 - (size.height if dy < 0 else size.height / 2 if dy == 0 else 0)
                box = Bbox.from_bounds(centres[i][0] + x, centres[i][1] + y, size.width, size.height)
                covered = sum(_overlap(box, other) for other in taken)
                outside = box.width * box.height - _overlap(box, inside)
                cost = 50 * covered + 50 * outside + distance * unit
                if cost < least:
                    best, least, chosen, far = (x / unit, y / unit), cost, box, distance
        taken.append(chosen)
        label.set_position(best)
        if far > 15:
            nearest = (
                min(max(centres[i][0], chosen.x0), chosen.x1),
                min(max(centres[i][1], chosen.y0), chosen.y1),
            )
            ends = axes.transData.inverted().transform([centres[i], nearest])
            axes.plot(ends[:, 0], ends[:, 1], color=INK, linewidth=0.6, alpha=0.6, zorder=1)
        labels.append(label)
    return labels


def write_png(figure: "Figure", path: Path) -> None:
    figure.savefig(path, format="png", dpi=160, facecolor="white")


def embed(draw: Callable[[str], "Figure"], png: Path, description: str, caption: str) -> str:
    """Draw for wide and narrow screens: as a file, and as the figure of a page (`recsys.evaluation.page.figure`)."""
    drawn = {form: draw(form) for form in ("wide", "narrow")}
    write_png(drawn["wide"], png)
    wide, narrow = (to_svg(drawn[form], f"{png.stem}-{form}") for form in ("wide", "narrow"))
    return figure(wide, narrow, description, caption)


def to_svg(figure: "Figure", name: str) -> str:
    """The SVG element, its ink and grid in the colours of the page around it; ids begin with what `name` gives."""
    from matplotlib import rc_context

    buffer = io.StringIO()
    with rc_context({"svg.hashsalt": name, "svg.fonttype": "path"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :].strip(), flags=re.DOTALL)
    # Several pictures share a page, so each keeps its ids apart.
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text)
    return text.replace(INK, "currentColor").replace(GRID, "var(--line)")


def new_axes(form: str, height: float | None = None) -> tuple["Figure", "Axes"]:
    """One set of axes on a figure that needs no screen and no global state."""
    figure, (axes,) = make_panels(form, 1, height)
    return figure, axes


def make_panels(form: str, count: int, height: float | None = None) -> tuple["Figure", list["Axes"]]:
    """Sets of axes on one figure, side by side on a wide one and below each other on a narrow one."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    width, usual = _SIZES[form]
    if count > 1:
        usual = 3.2 if form == "wide" else 2.9 * count
    rows, columns = (1, count) if form == "wide" else (count, 1)
    with rc_context({"text.color": INK, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK}):
        figure = Figure(figsize=(width, height or usual), layout="constrained")
        FigureCanvasAgg(figure)
        several = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in several:
        axes.set_facecolor("none")
        axes.grid(color=GRID, linewidth=0.7)
        axes.set_axisbelow(True)
        for side, spine in axes.spines.items():
            spine.set_visible(side in ("left", "bottom"))
            spine.set_color(GRID)
        axes.tick_params(color=GRID, which="both")
    return figure, several


def set_plain_log_axis(axes: "Axes", name: str = "x") -> None:
    """0.5, 1, 2, 5, 10 … instead of powers, on the axis x or y."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axes.get_xlim() if name == "x" else axes.get_ylim()
    axis = axes.xaxis if name == "x" else axes.yaxis
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 2000 else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _overlap(a: Any, b: Any) -> float:
    width = min(a.x1, b.x1) - max(a.x0, b.x0)
    height = min(a.y1, b.y1) - max(a.y0, b.y0)
    return max(width, 0) * max(height, 0)
