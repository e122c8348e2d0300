"""The page of an experiment: `experiment.html`, one file that needs nothing else, drawn from its report alone."""

from collections.abc import Mapping
from functools import partial
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recsys.evaluation import plots
from recsys.evaluation.page import facts, page, paragraph, section, table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMES = {
    "click_through": "Click-through",
    "errors": "Requests without an answer",
    "fallbacks": "Answers without the model",
    "coverage": "Coverage",
}
_HIGHER = {"click_through", "coverage"}
_WIDEST = 5  # margins that the picture shows to either side
_STATES = {"holds": "within the margin", "broken": "beyond the margin", "open": "not yet known"}


def write_page(path: Path, report: Mapping[str, Any], title: str) -> None:
    """Write the page, and its picture as PNG beside it.

    Args:
        report: of `recsys.experiment.analysis.analyse`.
    """
    control, treatment = report["config"]["control"], report["config"]["treatment"]
    text = page(
        f"{title}: {treatment} against {control}",
        [
            f"<h1>{escape(title)}: {escape(treatment)} against {escape(control)}</h1>",
            paragraph(f"{report['verdict'].capitalize()}: {report['reason']}.", "lead"),
            _differences(path, report),
            _arms(report),
            _latency(report),
            _conditions(report),
        ],
    )
    path.write_text(text)


def draw_differences(report: Mapping[str, Any], form: str = "wide") -> "Figure":
    """How much worse the treatment is than the control in units of the accepted loss; 1 is the margin."""
    rows = [(name, row) for name, row in report["differences"].items() if name in NAMES]
    figure, axes = plots.new_axes(form, height=0.9 + 0.6 * len(rows))
    states = {"holds": plots.COLOURS["alone"], "broken": plots.COLOURS["distilled"], "open": plots.COLOURS["baseline"]}
    for y, (name, row) in enumerate(rows):
        unit = (-1 if name in _HIGHER else 1) / (row["margin"] or 0.01)
        colour = states[row["state"]]
        if row["low"] is not None:
            axes.plot([row["low"] * unit, row["high"] * unit], [y, y], color=colour, linewidth=3, alpha=0.6)
        axes.plot(row["value"] * unit, y, "o", color=colour, markersize=8)
    axes.axvline(0, color=plots.INK, linewidth=0.8)
    axes.axvline(1, color=plots.INK, linewidth=1.2, linestyle="--")
    low, high = axes.get_xlim()
    axes.set_xlim(max(low, -_WIDEST), min(max(high, 1.5), _WIDEST))
    axes.set_yticks(range(len(rows)), [NAMES[name] for name, _ in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("loss in margins" + (": left of the dashed line is accepted" if form == "wide" else ""))
    return figure


def _differences(path: Path, report: Mapping[str, Any]) -> str:
    rows = [
        [
            escape(NAMES[name]),
            _percent(row["value"], sign=True),
            _bounds(row, sign=True),
            f"{'−' if name in _HIGHER else '+'}{_percent(row['margin'])}",
            _STATES[row["state"]],
        ]
        for name, row in report["differences"].items()
        if name in NAMES
    ]
    description = "; ".join(f"{NAMES[name]}: {_STATES[report['differences'][name]['state']]}" for name in NAMES)
    confidence = 100 * report["config"]["confidence"]
    return section(
        "Differences",
        plots.embed(
            partial(draw_differences, report),
            path.with_suffix(".png"),
            description,
            f"Each interval holds at all looks together with {confidence:g} %, so the experiment may end at any look.",
        ),
        table(
            "Treatment − control, in percentage points, users independent",
            ["", "Difference", f"{confidence:g} % at all looks", "Accepted", ""],
            rows,
        ),
    )


def _arms(report: Mapping[str, Any]) -> str:
    counts = ("users", "requests", "answers", "clicked")
    rows = [
        [
            escape(arm),
            *(f"{row[name]:,}" for name in counts),
            *(f'{_percent(row[name]["value"])}<span class="sub">{_bounds(row[name])}</span>' for name in NAMES),
        ]
        for arm, row in report["arms"].items()
    ]
    p = report["p"]
    users = ", ".join(f"{arm} {count:,}" for arm, count in report["users"].items())
    return section(
        "Arms",
        table(
            "By intention to treat: a user belongs to the arm of the first request",
            ["Arm", *map(str.capitalize, counts), *NAMES.values()],
            rows,
        ),
        paragraph(
            f"Users by the split: {users}; p = {p:.3g}"
            + (". These are not the users that the split gives." if report["verdict"] == "invalid" else "."),
            "note",
        ),
    )


def _latency(report: Mapping[str, Any]) -> str:
    columns = {**{arm: row["milliseconds"] for arm, row in report["arms"].items()}}
    columns["difference"] = report["differences"]["milliseconds"]
    levels = next((list(one) for one in columns.values() if one), [])
    rows = [
        [
            escape(name),
            *(
                f'{one[level]["value"]:.2f}<span class="sub">{one[level]["low"]:.2f} to {one[level]["high"]:.2f}</span>'
                for level in levels
            ),
        ]
        for name, one in columns.items()
        if one
    ]
    caption = "Milliseconds in the arm's replica, queue and model; bootstrap over users, 95 % at this look alone"
    return section("Latency", table(caption, ["Arm", *levels], rows)) if rows else ""


def _conditions(report: Mapping[str, Any]) -> str:
    config = report["config"]
    return section(
        "Conditions",
        facts(
            [
                ("From, to", f"{report['from']}, {report['to']}"),
                ("Split", ", ".join(f"{arm} {share:g}" for arm, share in report["split"].items())),
                ("Event", f"{config['event']}, once an answer, on an item that it showed"),
                ("Coverage", f"different items among all that {config['coverage_users']} users are shown first"),
                ("Planned", f"{config['planned']:,} answers of each arm"),
                (
                    "Left out",
                    f"{report['left_out']:,} requests that named their arm or no user, or came before the last change",
                ),
                ("Moved", f"{report['moved']:,} users whom more than one arm answered; they stay in their first"),
            ]
        ),
    )


def _percent(value: float | None, *, sign: bool = False) -> str:
    if value is None:
        return "–"
    return (f"{100 * value:+.2f}" if sign else f"{100 * value:.2f}").replace("-", "−") + "\N{NO-BREAK SPACE}%"


def _bounds(row: Mapping[str, Any], *, sign: bool = False) -> str:
    if row["low"] is None:
        return "not yet known"
    return f"{_percent(row['low'], sign=sign)} to {_percent(row['high'], sign=sign)}"
