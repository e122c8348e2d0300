"""The page of an A/B measurement: `ab_report.html`, one file that needs nothing else, drawn from `ab.json` alone."""

from collections.abc import Mapping
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

from recsys.evaluation import load_plots, plots
from recsys.evaluation.ladder import human_ms
from recsys.evaluation.page import facts, page, paragraph, section, table

_LOADS = {
    "open_loop": (
        "rate",
        "At a rate",
        "Open loop: requests come as a Poisson process whatever became of those before, and the latency of each counts "
        "from when it was due.",
    ),
    "closed_loop": (
        "connections",
        "At a number of connections",
        "Closed loop: each connection sends its next request when it has its answer, so a server that stalls is asked "
        "less. It tells the throughput; latency is told by the open loop.",
    ),
}


def write_ab_report(directory: Path, ab: Mapping[str, Any], title: str, core_hour: float | None = None) -> None:
    """Write `ab_report.html` and its PNG files into `directory`.

    Args:
        ab: as in `ab.json` (`ray_jobs.measure_ab`).
        core_hour: price of a core for an hour.
    """
    body = [
        f"<h1>{escape(title)}: latency of the arms</h1>",
        paragraph(" ".join(_find(ab)) or "Each arm was asked the same histories over HTTP.", "lead"),
        _distribution(directory, ab),
        *(_loads(directory, ab["load"], name, core_hour) for name in _LOADS if name in ab.get("load", {})),
        _frontier(directory, ab),
        _conditions(ab),
    ]
    (directory / "ab_report.html").write_text(page(f"{title}: latency of the arms", [part for part in body if part]))


def _find(ab: Mapping[str, Any]) -> list[str]:
    """What the loads say, one sentence an arm."""
    if "open_loop" not in (load := ab.get("load", {})):
        return []
    opened, promised = load["open_loop"], load["objective"]
    return [
        f"The {arm} arm keeps 99 % within {promised['p99_ms']:g} ms, and less than {100 * promised['failed']:g} % "
        "unanswered, "
        + (f"up to {rate:g} requests a second" if rate is not None else "at none of the rates that were tried")
        + (" (the highest that was tried)." if rate == max(row["rate"] for row in opened["arms"][arm]) else ".")
        for arm, rate in opened["highest"].items()
    ]


def _distribution(directory: Path, ab: Mapping[str, Any]) -> str:
    found = ab.get("distribution")
    if not found:
        return ""
    description = "Share of requests by time: " + "; ".join(
        f"{arm} half within {human_ms(row['p50_ms'])} ms, 99 % within {human_ms(row['p99_ms'])} ms"
        for arm, row in ab["arms"].items()
    )
    caption = (
        f"{ab['conditions']['requests']:,} histories to each arm in turns, {ab['conditions']['concurrency']} "
        "connection(s) at a time; a point says which share of the requests took longer."
    )
    requests = ab["conditions"]["requests"]
    draw = partial(load_plots.draw_distribution, found["arms"], found["levels"], requests)
    return section(
        "Distribution of latency", plots.embed(draw, directory / "ab_distribution.png", description, caption)
    )


def _loads(directory: Path, load: Mapping[str, Any], name: str, core_hour: float | None) -> str:
    column, title, said = _LOADS[name]
    arms = load[name]["arms"]
    objective = load["objective"]["p99_ms"]
    description = f"p99 against {column}: " + "; ".join(
        f"{arm} " + ", ".join(f"{row[column]:g}: {human_ms(row.get('p99_ms'))} ms" for row in rows)
        for arm, rows in arms.items()
    )
    figure = plots.embed(
        partial(load_plots.draw_loads, arms, column, objective),
        directory / f"ab_{name}.png",
        description,
        "Solid: p99 with its 95 % interval, dashed: p50, dotted: the objective; hollow: 1 % or more were not answered.",
    )
    tail = any("p99.9_ms" in row for rows in arms.values() for row in rows)
    header = [
        "Arm", column.capitalize(), "Requests", "Answers a second", "Shed", "Timed out", "Other errors", "p50", "p90",
        "p95", "p99", *(["p99.9"] if tail else []), "Max", "CPU s / million",
        *(["Cost / million"] if core_hour else []), "Client late, p99", "Client busy",
    ]  # fmt: skip
    cells = [
        [
            escape(arm),
            f"{row[column]:g}",
            f"{row['requests']:,}",
            f"{row['rps']:.1f}",
            f"{row['shed']:,}",
            f"{row['timeouts']:,}",
            f"{sum(row['errors'].values()):,}",
            *(_time(row, level) for level in ("p50", "p90", "p95", "p99", *(["p99.9"] if tail else []))),
            human_ms(row.get("max_ms")),
            _number(row.get("cpu_seconds_per_million"), 1.0),
            *([_number(row.get("cpu_seconds_per_million"), core_hour / 3600)] if core_hour else []),
            f"{max(row['client']['late_p99_ms'], row['client']['lag_p99_ms']):.1f} ms"
            + (" (saturated)" if row["client"]["saturated"] else ""),
            f"{100 * row['client']['busy']:.0f} %",
        ]
        for arm, rows in arms.items()
        for row in rows
    ]
    strong = [row["keeps_objective"] for rows in arms.values() for row in rows]
    caption = (
        f"Milliseconds with 95 % bootstrap intervals over stretches of time; p99 ≤ {objective:g} ms is kept where the "
        "row is marked. Times of requests that were given up count as long as they had waited."
    )
    late = any(row["client"]["saturated"] for rows in arms.values() for row in rows)
    warning = "Where a client was saturated, the times are an upper bound: it measured itself as well." if late else ""
    return section(title, paragraph(said), figure, table(caption, header, cells, strong=strong), paragraph(warning))


def _frontier(directory: Path, ab: Mapping[str, Any]) -> str:
    quality = ab.get("quality", {})
    arms = {arm: {**ab["arms"][arm], "ndcg@10": quality[arm]} for arm in ab["arms"] if arm in quality}
    if not arms:
        return ""
    missing = [arm for arm in ab["arms"] if arm not in arms]
    description = "NDCG@10 against latency: " + "; ".join(
        f"{arm} {row['ndcg@10']:.4f} at {human_ms(row['p50_ms'])} ms" for arm, row in arms.items()
    )
    return section(
        "Quality against latency",
        plots.embed(
            partial(load_plots.draw_frontier, arms),
            directory / "ab_frontier.png",
            description,
            "Up and to the left is better. A dot is the median over HTTP, the bar p99. Recent popularity stands for "
            "the null arm, whose own quality is not measured.",
        ),
        paragraph(f"Not evaluated: {', '.join(missing)}." if missing else ""),
    )


def _conditions(ab: Mapping[str, Any]) -> str:
    conditions, hardware = ab["conditions"], ab["conditions"]["hardware"]
    entries = [
        ("Items asked for", f"{conditions['k']}"),
        ("Proxy", str(conditions["proxy"])),
        ("Processor", f"{hardware['processor']}, {hardware['cores']} cores, {hardware['memory_gb']:g} GB"),
        ("Date", str(conditions["date"])),
        ("Versions", ", ".join(f"{name} {version}" for name, version in conditions["versions"].items())),
    ]
    if "load" in ab:
        load = ab["load"]
        entries.insert(
            2,
            (
                "Under load",
                f"{load['seconds']:g} s a load after {load['settle']:g} s that do not count, {load['clients']} client "
                f"processes, given up after {load['timeout']:g} s",
            ),
        )
    return section("Conditions", facts(entries))


def _time(row: Mapping[str, Any], level: str) -> str:
    if f"{level}_ms" not in row:
        return "–"
    low, high = row[f"{level}_interval_ms"]
    return f'{human_ms(row[f"{level}_ms"])}<span class="sub">{human_ms(low)} to {human_ms(high)}</span>'


def _number(value: float | None, unit: float) -> str:
    return "–" if value is None else f"{value * unit:.3g}"
