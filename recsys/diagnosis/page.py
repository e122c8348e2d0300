"""The diagnosis as lines, as pictures and as one page that needs nothing else, from its JSON alone."""

from collections.abc import Mapping
from functools import partial
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recsys.diagnosis.models import GROUPS
from recsys.diagnosis.verdict import human_price
from recsys.evaluation.ladder import human_ms
from recsys.evaluation.page import facts, page, paragraph, section, table
from recsys.evaluation.plots import COLOURS, INK, embed, new_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_KINDS = {
    "cold": "never seen in training",
    "repeat": "of the user's past, left out by counting",
    "direct": "has directly followed the last item",
    "hops": "two steps from the last item",
    "further": "further away",
}
_COLOURS = {
    "counting": COLOURS["baseline"],
    "alone": COLOURS["alone"],
    "taught": COLOURS["distilled"],
    "taught-control": COLOURS["distilled"],
    "hybrid": COLOURS["alone"],
    "distilled": COLOURS["distilled"],
    "control": COLOURS["distilled"],
    "teacher": COLOURS["teacher"],
}
_SHORT = {
    "counting": "counting",
    "alone": "alone",
    "taught": "taught by counts",
    "taught-control": "control",
    "hybrid": "counts added",
    "distilled": "taught by the teacher",
    "control": "control",
    "teacher": "the language model",
}
_HOLLOW = ("taught-control", "control", "hybrid")


def describe(found: Mapping[str, Any]) -> list[str]:
    """What a terminal shows."""
    lines = [f"worth it? {found['dataset']['name']}: {found['rows']:,} validation rows, nothing trained for this"]
    lines += [f"  {each['name']}: {each['state']}. {each['said']}" for each in found["shortcuts"]]
    lines.append(f"  Where the true next item is: {_shares(found['log']['targets']['kinds'])}")
    for row in (found["models"] or {}).get("rows", ()):
        cell = row["ndcg@10"]
        cost = (
            ""
            if row["per_million"] is None
            else f", {human_ms(row['ms'])} ms, {human_price(row['per_million'])} a million"
        )
        lines.append(f"  {row['name']}: NDCG@10 {cell['mean']:.4f} [{cell['low']:.4f}, {cell['high']:.4f}]{cost}")
    return lines + [f"  warning: {each}" for each in found["warnings"]] + [f"  {found['verdict']}"]


def write_page(directory: Path, found: Mapping[str, Any]) -> None:
    """`worth-it.html` and its pictures as PNG, into an existing directory."""
    counts = found["dataset"]["counts"]
    summary = (
        f"{counts['users']:,} users, {counts['items']:,} items, {counts['interactions']:,} interactions; counting was "
        f"tried on {found['rows']:,} validation rows. {found['conditions']['date'][:10]}."
    )
    body = [
        f"<h1>Is a language model worth it on {escape(found['dataset']['name'])}?</h1>",
        paragraph(summary, "lead"),
        f"<p><strong>{escape(found['verdict'])}</strong></p>",
    ]
    if found["warnings"]:
        listed = "".join(f"<li>{escape(each)}</li>" for each in found["warnings"])
        body.append(section("Before more is spent", f'<ul class="findings">{listed}</ul>'))
    body += [_log_section(directory, found), _models_section(directory, found["models"]), _conditions(found)]
    (directory / "worth-it.html").write_text(
        page(f"Worth it? {found['dataset']['name']}", [each for each in body if each])
    )


def _log_section(directory: Path, found: Mapping[str, Any]) -> str:
    log = found["log"]
    rows = [
        [
            escape(each["name"]),
            escape(each["state"]),
            f'<td class="text whole" data-label="Measured">{escape(each["said"])}</td>',
        ]
        for each in found["shortcuts"]
    ]
    shown = table(
        "Where memory is enough, a model that understands has little to add",
        ["Shortcut", "", "Measured"],
        rows,
        kind="cards",
    )
    tries = log["history"]["tries"]
    pictures = [
        embed(
            partial(draw_history, tries),
            directory / "history.png",
            "NDCG@10 of counting: "
            + "; ".join(f"{_latest(each['latest'])} {each['ndcg@10']['mean']:.4f}" for each in tries),
            "Counting shown the latest items alone, on validation; bars are 95 % intervals over users.",
        ),
        embed(
            partial(draw_hits, tries),
            directory / "hits.png",
            "Hits of counting: "
            + "; ".join(f"{_latest(each['latest'])} {each['hr']['10']:.1%} in the first 10" for each in tries),
            f"How often the true item is among the first k. Counting can rank {log['history']['reach']:.0%} of the "
            "true items at all; the others it never finds.",
        ),
        embed(
            partial(draw_targets, log["targets"]["kinds"]),
            directory / "targets.png",
            f"Where the true next item is: {_shares(log['targets']['kinds'])}",
            f"By chance, {log['targets']['reach']['direct']:.1%} of the catalogue directly follows an item in "
            f"somebody's sequence, and {log['targets']['reach']['hops']:.0%} is within two steps.",
        ),
        embed(
            partial(draw_successors, log["successors"]["histogram"]),
            directory / "successors.png",
            "Share of items by their number of different successors: "
            + ", ".join(f"up to {bound}: {share:.0%}" for bound, share in log["successors"]["histogram"].items()),
            f"{log['successors']['items']:,} items that have at least 5 successions.",
        ),
    ]
    resemblance = log["resemblance"]
    if resemblance and resemblance.get("pairs"):
        pictures.append(
            embed(
                partial(draw_resemblance, resemblance["histogram"]),
                directory / "titles.png",
                f"Cosine of titles: successors {resemblance['cosine']['successors']:.2f} on average, strangers "
                f"{resemblance['cosine']['strangers']:.2f}",
                f"Titles of {resemblance['pairs']:,} items and their successors, and of the same items paired anew.",
            )
        )
    return section("What the log says", shown, *pictures)


def _models_section(directory: Path, models: Mapping[str, Any] | None) -> str:
    if models is None:
        return ""
    rows = []
    for row in models["rows"]:
        cell = row["ndcg@10"]
        cost = row["per_million"]
        rows.append(
            [
                f'{escape(row["name"])}<span class="sub">{escape(GROUPS[row["group"]])}</span>',
                f"{cell['mean']:.4f}",
                f"{cell['low']:.4f} to {cell['high']:.4f}",
                human_ms(row["ms"]),
                "–" if cost is None else human_price(cost),
            ]
        )
    shown = table(
        "Test rows; 95 % intervals over users. The last column is what a million recommendations cost.",
        ["Model", "NDCG@10", "Interval", "ms", "A million"],
        rows,
        kind="cards",
    )
    listed = "".join(
        f"<li>{escape(each['of'])} against {escape(each['over'])}: {each['mean']:+.4f} ({each['low']:+.4f} to "
        f"{each['high']:+.4f})</li>"
        for each in models["better"]
    )
    drawn = embed(
        partial(draw_models, models["rows"]),
        directory / "models.png",
        "NDCG@10: " + "; ".join(f"{row['name']} {row['ndcg@10']['mean']:.4f}" for row in models["rows"]),
        "Intervals that overlap do not say that two models are equal: the differences below are measured in pairs.",
    )
    return section("What was measured", drawn, shown, f'<ul class="findings">{listed}</ul>')


def _conditions(found: Mapping[str, Any]) -> str:
    conditions, asked = found["conditions"], found["config"]
    hardware = conditions["hardware"]
    entries = [
        ("Rows", f"{found['rows']:,} validation rows; the models on test rows"),
        ("Prices", f"{asked['core_hour']:g} an hour of a core, {asked['gpu_hour']:g} of a GPU"),
        ("Counting", ", ".join(f"{name} {value:g}" for name, value in found["rules"].items())),
        ("Processor", f"{hardware['processor']}, {hardware['cores']} cores, {hardware['memory_gb']:g} GB"),
        ("Fingerprint", found["dataset"]["fingerprint"][:12]),
        ("Date", conditions["date"]),
    ]
    if cost := found["teacher_cost"]:
        entries.insert(
            2,
            (
                "Teacher",
                f"{cost['training_hours']:.2f} hours of training, {cost['pass_hours']:.2f} of the pass; in all "
                f"{human_price(cost['cost'])}",
            ),
        )
    note = paragraph(
        "The best of each kind is chosen on the rows that it is compared on, which flatters all kinds alike; intervals "
        "tell the luck of which users were tested, not that of a training's seed.",
        "note",
    )
    return section("Conditions", facts(entries), note)


def draw_history(tries: list[Mapping[str, Any]], form: str = "wide") -> "Figure":
    """NDCG@10 of counting by how many of the latest items it is shown."""
    figure, axes = new_axes(form, height=3.4)
    places, cells = range(len(tries)), [each["ndcg@10"] for each in tries]
    means = [cell["mean"] for cell in cells]
    spread = [[cell["mean"] - cell["low"] for cell in cells], [cell["high"] - cell["mean"] for cell in cells]]
    axes.errorbar(places, means, spread, fmt="o-", color=COLOURS["alone"], linewidth=1.8, capsize=4, markersize=7)
    axes.axhline(means[-1], color=INK, linewidth=0.8, linestyle=":")
    axes.set_xticks(places, [_latest(each["latest"]) for each in tries])
    axes.set_ylim(0, 1.15 * max(cell["high"] for cell in cells) or 1)
    axes.margins(x=0.08)
    axes.set_ylabel("NDCG@10 on validation")
    return figure


def draw_hits(tries: list[Mapping[str, Any]], form: str = "wide") -> "Figure":
    """HR@k of counting against k (log), for one item and for whole histories."""
    from matplotlib.ticker import FixedLocator, NullFormatter, StrMethodFormatter

    figure, axes = new_axes(form, height=3.4)
    for each, colour, style in ((tries[0], COLOURS["baseline"], "s--"), (tries[-1], COLOURS["alone"], "o-")):
        cutoffs = [int(k) for k in each["hr"]]
        axes.plot(cutoffs, list(each["hr"].values()), style, color=colour, linewidth=1.8, label=_latest(each["latest"]))
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(cutoffs))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.set_ylim(0, 1.1 * max(max(each["hr"].values()) for each in tries) or 1)
    axes.set_xlabel("k (log)")
    axes.set_ylabel("true item among the first k")
    axes.legend(frameon=False, labelcolor=INK, loc="upper left")
    return figure


def draw_targets(kinds: Mapping[str, float], form: str = "wide") -> "Figure":
    """Where the true next items stand, a bar each."""
    figure, axes = new_axes(form, height=2.6 if form == "wide" else 3.8)
    names = [_wrap(text) if form == "narrow" else text for text in _KINDS.values()]
    axes.barh(range(len(_KINDS)), [kinds[kind] for kind in _KINDS], color=COLOURS["alone"], height=0.62)
    for place, kind in enumerate(_KINDS):
        axes.text(kinds[kind] + 0.01, place, f"{kinds[kind]:.1%}", va="center", color=INK, fontsize=9)
    axes.set_yticks(range(len(_KINDS)), names, fontsize=10 if form == "wide" else 8)
    axes.invert_yaxis()
    axes.grid(visible=False)
    axes.set_xlim(0, (1.18 if form == "wide" else 1.4) * max(kinds.values()) or 1)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.set_xlabel("validation rows")
    return figure


def draw_successors(histogram: Mapping[str, float], form: str = "wide") -> "Figure":
    """Items by their number of different direct successors."""
    figure, axes = new_axes(form, height=3.0)
    bounds = [int(bound) for bound in histogram]
    names = [str(b) if b <= 2 else f"{low + 1}–{b}" for low, b in zip([0, *bounds[:-1]], bounds, strict=True)]
    axes.bar(range(len(bounds)), list(histogram.values()), color=COLOURS["alone"], width=0.7)
    axes.set_xticks(
        range(len(bounds)), names, fontsize=9 if form == "wide" else 7, rotation=0 if form == "wide" else 45
    )
    axes.grid(axis="x", visible=False)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.set_xlabel("different direct successors")
    axes.set_ylabel("items")
    return figure


def draw_resemblance(histogram: Mapping[str, list[float]], form: str = "wide") -> "Figure":
    """Cosines of the titles of successors and of strangers."""
    import numpy as np

    figure, axes = new_axes(form, height=3.0)
    edges = np.linspace(-1, 1, len(histogram["successors"]) + 1)
    for name, colour, style in (("strangers", COLOURS["baseline"], "--"), ("successors", COLOURS["alone"], "-")):
        axes.stairs(histogram[name], edges, color=colour, linewidth=1.8, linestyle=style, label=name)
    shown = edges[:-1][np.add(histogram["successors"], histogram["strangers"]) > 1e-3]
    axes.set_xlim(shown.min() - 0.05, min(shown.max() + 0.1, 1.0))
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.set_xlabel("cosine of titles")
    axes.set_ylabel("pairs")
    axes.legend(frameon=False, labelcolor=INK)
    return figure


def draw_models(rows: list[Mapping[str, Any]], form: str = "wide") -> "Figure":
    """NDCG@10 of each model with its interval."""
    figure, axes = new_axes(form, height=0.9 + 0.34 * len(rows))
    for place, row in enumerate(rows):
        cell, colour = row["ndcg@10"], _COLOURS[row["group"]]
        axes.plot([cell["low"], cell["high"]], [place, place], color=colour, linewidth=2, alpha=0.6)
        filled = "none" if row["group"] in _HOLLOW else colour
        axes.plot(
            cell["mean"], place, "o", markersize=8, markerfacecolor=filled, markeredgecolor=colour, markeredgewidth=1.8
        )
    said = [row["name"] if form == "narrow" else f"{row['name']}, {_SHORT[row['group']]}" for row in rows]
    axes.set_yticks(range(len(rows)), said)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set_xlim(left=0)
    axes.set_xlabel("NDCG@10 on test")
    return figure


def _latest(number: int | None) -> str:
    return "all items" if number is None else "last item" if number == 1 else f"last {number}"


def _shares(kinds: Mapping[str, float]) -> str:
    return "; ".join(f"{text} {kinds[kind]:.1%}" for kind, text in _KINDS.items())


def _wrap(text: str) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(text, 20))
