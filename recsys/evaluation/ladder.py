"""The quality ladder: baselines, each student alone and distilled, the teacher, in one table."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from recsys.data.prepared import PreparedDataset
from recsys.evaluation.config import name_rule
from recsys.evaluation.described import describe, is_distilled
from recsys.evaluation.metrics import gains
from recsys.evaluation.results import RULES, Ranks, Result
from recsys.evaluation.statistics import paired_bootstrap

if TYPE_CHECKING:
    from rich.table import Table

LADDER = "ladder"
_ROLES = ("baseline", "student", "teacher")
_WIDTH = 104


def build_rows(
    results: Sequence[Result],
    ranks: Mapping[str, Ranks],
    latency: Mapping[str, Mapping[str, float]],
    twins: Mapping[str, str],
    dataset: PreparedDataset,
    *,
    bootstrap_samples: int,
) -> list[dict[str, Any]]:
    """The rows of the ladder as plain JSON values: baselines, students (of one kind together, alone first), teacher.

    Args:
        ranks: of every result that is in a pair of `twins`.
        twins: distilled student → the same student alone, hybrid → its student.

    Returns:
        name, role, about (in words), kind, distilled, twin, seed, checkpoint_hash, parameters, metrics by rule,
        sampled, latency, and for a distilled student `difference`: rule → NDCG@10 above its twin with its interval.
    """
    rows = []
    kinds = [result.kind for result in results]
    for result in sorted(results, key=lambda r: (_ROLES.index(r.role), kinds.index(r.kind), is_distilled(r))):
        row = {
            "name": result.name,
            "role": result.role,
            "about": describe(result),
            "kind": result.kind,
            "distilled": is_distilled(result),
            "twin": twins.get(result.name),
            "seed": result.seed,
            "checkpoint_hash": result.checkpoint_hash,
            "parameters": result.parameters,
            "metrics": result.metrics,
            "sampled": result.sampled,
            "latency": dict(latency.get(result.name, {})),
            "difference": None,
        }
        if row["twin"]:
            row["difference"] = {
                rule: _difference(ranks[result.name], ranks[twins[result.name]], rule, dataset, bootstrap_samples)
                for rule in RULES
            }
        rows.append(row)
    return rows


def _difference(ours: Ranks, theirs: Ranks, rule: str, dataset: PreparedDataset, samples: int) -> dict[str, Any]:
    assert np.array_equal(ours.rows, theirs.rows), "both were ranked on the same split"
    interval = paired_bootstrap(
        gains(ours.by_rule[rule], 10), gains(theirs.by_rule[rule], 10), dataset.users_of(ours.rows), samples=samples
    )
    return {
        "metric": "ndcg@10",
        "difference": interval.difference,
        "low": interval.low,
        "high": interval.high,
        "confidence": interval.confidence,
    }


def print_ladder(ladder: Mapping[str, Any], file: TextIO | None = None) -> None:
    """The table in plain text, at most 104 columns, as `write` of a log takes it."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    rule = name_rule(ladder["mask_seen"])
    table = Table(box=box.SIMPLE_HEAD, title=_title(ladder), title_justify="left", title_style="", pad_edge=False)
    table.add_column("model", no_wrap=True)
    for name in ("NDCG@10", "HR@10", "parameters", "ms"):
        table.add_column(name, justify="right")
    table.add_column("NDCG@10 above the same student alone, a hybrid's above its student")
    for row in ladder["rows"]:
        metrics = row["metrics"][rule]
        table.add_row(
            row["name"],
            f"{metrics['ndcg@10']:.4f}",
            f"{metrics['hr@10']:.4f}",
            human_count(row["parameters"]["served"]),
            human_ms(row["latency"].get("median_ms")),
            describe_difference(row, rule),
        )
    console = Console(file=file, width=_WIDTH, no_color=True, force_terminal=False, highlight=False, emoji=False)
    console.print(table)
    if any(row.get("sampled") for row in ladder["rows"]):
        console.print(_sampled_table(ladder))
    console.print(
        "parameters: numbers served, frozen tables included (a baseline: the counts it keeps). ms: median of one "
        "history on one thread, model alone."
    )
    for row in ladder["rows"]:
        if row["role"] == "teacher" and row.get("about"):
            console.print(row["about"])
    if said := verdict(ladder):
        console.print(said)


def verdict(ladder: Mapping[str, Any]) -> str | None:
    """A sentence about a teacher that ranks below a student that learned without it; None where none does."""
    rule = name_rule(ladder["mask_seen"])
    quality = {row["name"]: float(row["metrics"][rule]["ndcg@10"]) for row in ladder["rows"]}
    teachers = [row for row in ladder["rows"] if row["role"] == "teacher"]
    kinds = {row["kind"] for row in teachers}  # a cut or compressed teacher is not a student alone
    alone = [
        row["name"]
        for row in ladder["rows"]
        if row["role"] == "student" and not row["distilled"] and not row["twin"] and row["kind"] not in kinds
    ]
    if not teachers or not alone:
        return None
    teacher, best = teachers[0]["name"], max(alone, key=lambda name: quality[name])
    if quality[teacher] >= quality[best]:
        return None
    return (
        f"The {teacher} ranks below {best}, a student that learned alone (NDCG@10 {quality[teacher]:.4f} against "
        f"{quality[best]:.4f}): on this data the larger model is the slower and not the better recommender, and what "
        "students gain by it is no more than the intervals above show."
    )


def _sampled_table(ladder: Mapping[str, Any]) -> "Table":
    from rich import box
    from rich.table import Table

    negatives = ladder["conditions"]["evaluation"]["sampled"]["negatives"]
    title = f"The target among {negatives} sampled negatives, not comparable with full ranking"
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="", pad_edge=False)
    table.add_column("model", no_wrap=True)
    for name in ("HR@1", "HR@5", "NDCG@5", "MRR"):
        table.add_column(name, justify="right")
    for row in ladder["rows"]:
        table.add_row(row["name"], *(f"{row['sampled'][name]:.4f}" for name in ("hr@1", "hr@5", "ndcg@5", "mrr")))
    return table


def _title(ladder: Mapping[str, Any]) -> str:
    seen = "items of the user's past left out" if ladder["mask_seen"] else "items of the user's past ranked as well"
    return (
        f"Quality ladder, {ladder['dataset']['name']}: {ladder['test_rows']:,} test rows, full ranking, {seen}"
        f"{describe_seen_targets(ladder)}"
    )


def describe_seen_targets(ladder: Mapping[str, Any]) -> str:
    """What the rule for seen items costs every row of the table, or nothing."""
    share = ladder.get("seen_targets", 0.0)
    if not share or not ladder["mask_seen"]:
        return ""
    return f"; {share:.1%} of the targets are items of the past and count as missed"


def describe_difference(row: Mapping[str, Any], rule: str) -> str:
    """`+0.0050 (+12 %), 95 % interval [+0.0021, +0.0080]`, or nothing for a row without a twin."""
    if not row["difference"]:
        return ""
    d = row["difference"][rule]
    alone = row["metrics"][rule]["ndcg@10"] - d["difference"]
    share = f" ({100 * d['difference'] / alone:+.0f} %)" if alone > 0 else ""
    return f"{d['difference']:+.4f}{share}, {100 * d['confidence']:.0f} % [{d['low']:+.4f}, {d['high']:+.4f}]"


def human_count(number: int) -> str:
    """1234 → "1,234", 2_345_678 → "2.35 M"."""
    return f"{number / 1e6:.2f} M" if number >= 1_000_000 else f"{number:,}"


def human_ms(value: float | None) -> str:
    """Milliseconds with three meaningful digits at most."""
    if value is None:
        return "–"
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"
