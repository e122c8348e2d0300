"""What a depth study says: a row for each depth and way, and the smallest depth that is good enough.

A study is plain JSON values: `full` and `rows` with depth, way ("full", "read-out", "alone", "distilled"), metrics by
full ranking of the test rows and ("valid") of the validation rows, sampled metrics where asked for, latency, parameters
("served", and "layers" of the decoder alone), bytes, and how the weights were compressed ("" for not at all).
"""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, TextIO

from recsys.evaluation import plots
from recsys.evaluation.ladder import human_count, human_ms
from recsys.evaluation.page import facts, figure, page, paragraph, section, table

METRIC = "ndcg@10"
_NAMES = {
    "full": "whole teacher",
    "read-out": "read out, not retrained",
    "alone": "retrained alone",
    "distilled": "distilled",
}


def recommend(rows: Sequence[Mapping[str, Any]], full: Mapping[str, Any], tolerance: float) -> Mapping[str, Any]:
    """The row of smallest depth whose NDCG@10 on validation is within `tolerance` percent of the full model's, the best
    of its depth; the full model itself where there is no other. What test says has no part in the choice."""
    enough = full["valid"][METRIC] * (1 - tolerance / 100)
    good = [row for row in rows if row["valid"][METRIC] >= enough and not row["compressed"]]
    return min([*good, full], key=lambda row: (row["depth"], -row["valid"][METRIC]))


def sentence(study: Mapping[str, Any]) -> str:
    """The recommendation in words."""
    full, chosen = study["full"], study["recommended"]
    if chosen["way"] == "full":
        return (
            f"recommended: all {full['depth']} layers; no smaller depth tried is within {study['tolerance']:g} % of "
            f"their NDCG@10 {full['valid'][METRIC]:.4f} on validation"
        )
    return (
        f"recommended: {chosen['depth']} of {full['depth']} layers, {_NAMES[chosen['way']]}: NDCG@10 "
        f"{chosen['valid'][METRIC]:.4f} ({_percent(chosen, full, 'valid')}) on validation, "
        f"{chosen['metrics'][METRIC]:.4f} ({_percent(chosen, full)}) on test, "
        f"{full['latency']['median_ms'] / chosen['latency']['median_ms']:.1f} times as fast"
    )


def print_study(study: Mapping[str, Any], file: TextIO | None = None) -> None:
    """The table in plain text and the recommendation."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    title = f"Depth study, {study['dataset']['name']}: {study['test_rows']:,} test rows, full ranking"
    drawn = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="")
    drawn.pad_edge, drawn.collapse_padding = False, True
    drawn.add_column("layers", justify="right")
    drawn.add_column("way", no_wrap=True)
    for name in (*_columns(study), "ms"):
        drawn.add_column(name, justify="right")
    for row in _sort_rows(study):
        drawn.add_row(*_cells(row, study))
    console = Console(file=file, width=120, no_color=True, force_terminal=False, highlight=False, emoji=False)
    console.print(drawn)
    console.print(sentence(study), soft_wrap=True)


def write_pictures(directory: Path, study: Mapping[str, Any]) -> None:
    """`depth.png` and `depth.html`, one file that needs nothing else."""
    plots.write_png(plots.draw_depth_curves(study), directory / "depth.png")
    name = study["dataset"]["name"]
    description = "NDCG@10, latency and parameters against the number of layers"
    picture = figure(
        plots.to_svg(plots.draw_depth_curves(study, "wide"), "depth-wide"),
        plots.to_svg(plots.draw_depth_curves(study, "narrow"), "depth-narrow"),
        description,
        f"On test; the dotted line is the whole teacher's NDCG@10 less {study['tolerance']:g} %. "
        "The depth is chosen on validation.",
    )
    header = ["layers", "way", *_columns(study), "ms"]
    shown = [[escape(cell) for cell in _cells(row, study)] for row in _sort_rows(study)]
    strong = [row == study["recommended"] for row in _sort_rows(study)]
    conditions = study["conditions"]
    body = [
        f"<h1>{escape(name)}: how deep the recommender needs to be</h1>",
        paragraph(sentence(study)[0].upper() + sentence(study)[1:] + ".", "lead"),
        picture,
        section("Every depth", table(f"{study['test_rows']:,} test rows", header, shown, strong=strong)),
        section(
            "Conditions",
            facts(
                [
                    ("date", conditions["date"]),
                    ("ranking", f"whole catalogue, items of the user's past {study['seen']}"),
                    ("latency", "median of one history on one thread, model alone, all models in turn in one process"),
                    ("seeds", "one; a difference smaller than the spread between seeds says nothing"),
                    ("versions", ", ".join(f"{k} {v}" for k, v in conditions["versions"].items())),
                    ("hardware", ", ".join(f"{k} {v}" for k, v in conditions["hardware"].items())),
                ]
            ),
        ),
    ]
    (directory / "depth.html").write_text(page(f"{name}: depth", body))


def _sort_rows(study: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return sorted(study["rows"], key=lambda row: (row["depth"], list(_NAMES).index(row["way"]), row["compressed"]))


def _columns(study: Mapping[str, Any]) -> list[str]:
    sampled = ["HR@1 sampled", "MRR sampled"] if study["full"]["sampled"] else []
    return ["on valid", "NDCG@10", "against whole", "HR@10", *sampled, "served", "in layers", "MB"]


def _cells(row: Mapping[str, Any], study: Mapping[str, Any]) -> list[str]:
    sampled = [f"{row['sampled'][name]:.4f}" for name in ("hr@1", "mrr")] if study["full"]["sampled"] else []
    return [
        str(row["depth"]),
        ", ".join(filter(None, (_NAMES[row["way"]], row["compressed"]))),
        f"{row['valid'][METRIC]:.4f}",
        f"{row['metrics'][METRIC]:.4f}",
        _percent(row, study["full"]),
        f"{row['metrics']['hr@10']:.4f}",
        *sampled,
        human_count(row["parameters"]["served"]),
        human_count(row["parameters"]["layers"]),
        f"{row['bytes'] / 1e6:.2f}",
        human_ms(row["latency"]["median_ms"]),
    ]


def _percent(row: Mapping[str, Any], full: Mapping[str, Any], which: str = "metrics") -> str:
    whole = full[which][METRIC]
    return f"{100 * (row[which][METRIC] / whole - 1):+.1f} %" if whole else "–"
