"""The report of a project: `report.html`, one file that needs nothing else, and its pictures as PNG.

It is drawn from results files alone (the ladder, the results of each model, the A/B measurement where there is one).
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

from recsys.evaluation import plots
from recsys.evaluation.config import name_rule
from recsys.evaluation.described import describe
from recsys.evaluation.ladder import describe_difference, describe_seen_targets, human_count, human_ms, verdict
from recsys.evaluation.page import facts, page, paragraph, section, table
from recsys.evaluation.results import Result

_RULES = {
    "masked": "items of the user's past left out of the candidates",
    "unmasked": "items of the user's past ranked like any other",
}
_PROTOCOLS = {
    "leave_one_out": "leave-one-out: each user's last item is the test target, the one before it the validation target",
    "global_time": "global time split: rows in the order of their target's time, 80 % training, 10 % validation, 10 % "
    "test",
}


def write_report(
    directory: Path, ladder: Mapping[str, Any], results: Mapping[str, Result], ab: Mapping[str, Any] | None = None
) -> None:
    """Write `report.html` and the PNG files into `directory`.

    Args:
        ladder: as in `ladder.json` (`ray_jobs.evaluate`).
        results: name → result of every row of the ladder.
        ab: as in `ab.json` (`ray_jobs.measure_ab`).
    """
    rule = name_rule(ladder["mask_seen"])
    name = ladder["dataset"]["name"]
    body = [
        f"<h1>{escape(name)}: quality and latency of teacher and students</h1>",
        paragraph(_summary(ladder), "lead"),
        _list(findings(ladder)),
        _ladder_section(ladder, results, rule),
        _quality_section(directory, ladder, rule),
    ]
    if ab is not None:
        body.append(_ab_section(directory, ab))
    curves = {
        row["name"]: curve
        for row in ladder["rows"]
        if (curve := results[row["name"]].training.get("training", {}).get("curve"))
    }
    if curves:
        body.append(_curves_section(directory, curves))
    body += [_dataset_section(ladder["dataset"]), _conditions_section(ladder, results)]
    (directory / "report.html").write_text(page(f"{name}: quality and latency", body))


def _summary(ladder: Mapping[str, Any]) -> str:
    counts = ladder["dataset"]["counts"]
    return (
        f"{counts['users']:,} users, {counts['items']:,} items, {counts['interactions']:,} interactions; "
        f"{ladder['test_rows']:,} test rows, each ranked against the whole catalogue{describe_seen_targets(ladder)}. "
        f"{ladder['conditions']['date'][:10]}."
    )


def findings(ladder: Mapping[str, Any]) -> list[str]:
    """What the numbers say, good or bad, as HTML: one text for each distilled student, one about a
    teacher below a student alone, one about counting."""
    rule = name_rule(ladder["mask_seen"])
    rows = {row["name"]: row for row in ladder["rows"]}

    def quality(name: str) -> float:
        return float(rows[name]["metrics"][rule]["ndcg@10"])

    sentences = []
    for row in ladder["rows"]:
        if not row["distilled"]:
            continue
        text = f"<strong>{escape(row['name'])}</strong> reaches NDCG@10 {quality(row['name']):.4f}"
        if row["difference"]:
            d = row["difference"][rule]
            sure = d["low"] > 0 or d["high"] < 0
            share = f" ({100 * d['difference'] / quality(row['twin']):+.0f} %)" if quality(row["twin"]) else ""
            text += (
                f", {d['difference']:+.4f}{share} against {escape(row['twin'])}, the same student alone. The "
                f"{100 * d['confidence']:.0f} % interval over users, {d['low']:+.4f} to {d['high']:+.4f}, "
                + ("excludes zero." if sure else "includes zero: this difference may be chance.")
            )
        else:
            text += "; there is no student alone of its kind to compare it with."
        if "teacher" in rows and quality("teacher"):
            text += f" That is {100 * quality(row['name']) / quality('teacher'):.0f} % of the teacher's quality"
            ours, theirs = (rows[n]["latency"].get("median_ms") for n in (row["name"], "teacher"))
            text += (
                f", in {human_ms(ours)} ms instead of {human_ms(theirs)} ms per history." if ours and theirs else "."
            )
        sentences.append(text)
    if said := verdict(ladder):
        sentences.append(escape(said))
    counting = [row["name"] for row in ladder["rows"] if row["role"] == "baseline"]
    models = [row["name"] for row in ladder["rows"] if row["role"] != "baseline"]
    if counting and models:
        best = max(counting, key=quality)
        below = [name for name in models if quality(name) < quality(best)]
        said = f"below it: {', '.join(below)}" if below else "every model is above it"
        sentences.append(f"Counting alone ({escape(best)}) reaches {quality(best):.4f}; {escape(said)}.")
    return sentences


def _list(sentences: Sequence[str]) -> str:
    items = "".join(f"<li>{text}</li>" for text in sentences).replace(" %", "\N{NO-BREAK SPACE}%")
    return f'<ul class="findings">{items}</ul>'


def _ladder_section(ladder: Mapping[str, Any], results: Mapping[str, Result], rule: str) -> str:
    highest = max(row["metrics"][rule]["ndcg@10"] for row in ladder["rows"]) or 1
    cells = []
    for row in ladder["rows"]:
        metrics = row["metrics"][rule]
        width = 100 * metrics["ndcg@10"] / highest
        what = describe(results[row["name"]])
        cells.append(
            [
                f'{escape(row["name"])}<span class="sub">{escape(what)}</span>',
                f'<td class="main" data-label="NDCG@10">{metrics["ndcg@10"]:.4f}'
                f'<span class="bar" style="width:{width:.0f}%" aria-hidden="true"></span></td>',
                f"{metrics['hr@10']:.4f}",
                human_count(row["parameters"]["served"]),
                human_ms(row["latency"].get("median_ms")),
                f'<td class="text whole" data-label="Against it alone">{_difference(row, rule)}</td>',
            ]
        )
    shown = table(
        f"Test, full ranking, {_RULES[rule]}. Interval: paired bootstrap over users.",
        [
            "Model",
            "NDCG@10",
            "HR@10",
            "Parameters",
            "ms",
            "NDCG@10 against the same student alone, a hybrid's against its student",
        ],
        cells,
        strong=[row["distilled"] for row in ladder["rows"]],
        kind="cards",
    )
    note = paragraph(
        "Parameters are the numbers a served model keeps, frozen tables included; a baseline keeps counts. ms is the "
        "median time of one history on one thread, the model alone, all models in one process, in random order.",
        "note",
    )
    return section("Quality ladder", shown, note, _all_metrics(ladder))


def _difference(row: Mapping[str, Any], rule: str) -> str:
    gain, _, interval = describe_difference(row, rule).replace("-", "−").partition(", ")
    return f'{escape(gain)}<span class="sub">{escape(interval)}</span>' if gain else ""


def _all_metrics(ladder: Mapping[str, Any]) -> str:
    names = list(ladder["rows"][0]["metrics"]["masked"])
    tables = [
        table(
            f"Means over all {ladder['test_rows']:,} test rows; {text}",
            ["Model", *(name.upper() for name in names)],
            [[escape(row["name"]), *(f"{row['metrics'][rule][name]:.4f}" for name in names)] for row in ladder["rows"]],
        )
        for rule, text in _RULES.items()
    ]
    return f"<details><summary>All metrics, by both rules for seen items</summary>{''.join(tables)}</details>"


def _quality_section(directory: Path, ladder: Mapping[str, Any], rule: str) -> str:
    timed = [row for row in ladder["rows"] if row["latency"].get("median_ms")]
    if not timed:
        return ""
    description = "NDCG@10 against milliseconds: " + "; ".join(
        f"{row['name']} {row['metrics'][rule]['ndcg@10']:.4f} at {human_ms(row['latency']['median_ms'])} ms"
        for row in timed
    )
    return section(
        "Quality against latency",
        plots.embed(
            partial(plots.draw_quality_latency, timed, rule),
            directory / "quality_latency.png",
            description,
            "Up and to the left is better; an arrow leads from a student alone to the same student distilled.",
        ),
    )


def _ab_section(directory: Path, ab: Mapping[str, Any]) -> str:
    arms = ab["arms"]
    columns = {
        "Requests": "requests",
        "Errors": "errors",
        "p50": "p50_ms",
        "p95": "p95_ms",
        "p99": "p99_ms",
        "Model p50": "model_p50_ms",
        "Model p99": "model_p99_ms",
    }
    rows = [
        [
            escape(arm),
            *(human_ms(figures[k]) if k.endswith("_ms") else f"{figures[k]:,}" for k in columns.values()),
        ]
        for arm, figures in arms.items()
    ]
    said = {
        "teacher_over_student": "End to end the teacher takes {:.2f} times as long as the student (medians).",
        "teacher_over_student_model_time": "The model alone takes {:.1f} times as long.",
        "student_minus_null_ms": "The student costs {:.2f} ms more than an arm that answers at once.",
    }
    sentences = " ".join(text.format(ab["ratios"][name]) for name, text in said.items() if name in ab["ratios"])
    conditions = ab["conditions"]
    caption = (
        f"Milliseconds over HTTP: {conditions['requests']:,} test histories to each arm, "
        f"{conditions['concurrency']} connection(s) at a time, proxy {conditions['proxy']}. The null arm answers at "
        "once with a body of the same size, so it shows what HTTP itself costs."
    )
    description = "Latency of each arm: " + "; ".join(
        f"{arm} p50 {human_ms(f['p50_ms'])}, p99 {human_ms(f['p99_ms'])} ms" for arm, f in arms.items()
    )
    return section(
        "Arms side by side",
        paragraph(sentences),
        plots.embed(partial(plots.draw_arm_latency, arms), directory / "ab_latency.png", description, ""),
        table(caption, ["Arm", *columns], rows),
    )


def _curves_section(directory: Path, curves: Mapping[str, Any]) -> str:
    description = "NDCG@10 on validation by epoch: " + "; ".join(
        f"{name} best {max(r['valid_ndcg@10'] for r in curve):.4f} after {len(curve)} epochs"
        for name, curve in curves.items()
    )
    caption = "The weights of the best epoch on validation are kept; test rows play no part in it."
    return section(
        "Training",
        plots.embed(
            partial(plots.draw_learning_curves, curves), directory / "learning_curves.png", description, caption
        ),
    )


def _dataset_section(dataset: Mapping[str, Any]) -> str:
    counts, known = dataset["counts"], dataset["facts"]
    entries = [
        ("Name", str(dataset["name"])),
        ("Users, items", f"{counts['users']:,}, {counts['items']:,}"),
        ("Interactions", f"{counts['interactions']:,} ({counts['interactions'] / counts['users']:.1f} a user)"),
    ]
    if "density" in known:
        entries.append(("Density", f"{100 * known['density']:.3g} % of all user and item pairs"))
    if "median_sequence" in known:
        entries.append(("Median sequence", f"{known['median_sequence']:g} interactions"))
    if "missing_titles" in known:
        entries.append(("Missing titles", f"{100 * known['missing_titles']:.3g} %"))
    # Where only an order or other units are known, dates would be made up.
    if "first_timestamp" in known and 10**8 < known["first_timestamp"] <= known["last_timestamp"] < 7 * 10**9:
        days = (datetime.fromtimestamp(known[name], UTC).date() for name in ("first_timestamp", "last_timestamp"))
        entries.append(("From, to", ", ".join(day.isoformat() for day in days)))
    entries += [
        ("Protocol", _PROTOCOLS.get(dataset["protocol"], dataset["protocol"])),
        (
            "Rows",
            f"{counts['train_rows']:,} training, {counts['valid_rows']:,} validation, {counts['test_rows']:,} test",
        ),
        ("Longest history shown", f"{dataset['max_history']} items"),
        *(
            ("Source", f"{file['name']}, {file['size']:,} bytes, SHA-256 {file['sha256'][:16]}…")
            for file in dataset["source"].get("files", [])
        ),
        ("Fingerprint", str(dataset["fingerprint"])),
    ]
    return section("Data", facts(entries))


def _conditions_section(ladder: Mapping[str, Any], results: Mapping[str, Result]) -> str:
    conditions = ladder["conditions"]
    hardware = conditions["hardware"]
    evaluation = conditions["evaluation"]
    baselines = (
        f"recent popularity over {evaluation['recent_days']:g} days; co-occurrence "
        + ", ".join(f"{key} {value:g}" for key, value in evaluation["cooccurrence"].items())
        + "; constants set once on validation rows of MovieLens 100K and Amazon Beauty"
    )
    entries = [
        (
            "Metrics",
            "means over all test rows; HR@k: rank ≤ k; NDCG@k: 1/log2(rank+1) within k; ties against the model",
        ),
        ("Selection", "checkpoint by validation, never by test"),
        ("Baselines", baselines),
        ("Interval", f"{evaluation['bootstrap_samples']:,} bootstrap samples of users, seed 0"),
        ("Latency", f"{evaluation['latency_requests']:,} histories per model, one thread, top 10 of all items"),
        ("Processor", f"{hardware['processor']}, {hardware['cores']} cores, {hardware['memory_gb']:g} GB"),
        ("GPU", ", ".join(hardware["gpus"]) or "none"),
        ("Versions", ", ".join(f"{name} {version}" for name, version in conditions["versions"].items())),
        ("Date", conditions["date"]),
    ]
    rows = []
    for row in ladder["rows"]:
        if row["role"] == "baseline":
            continue
        result = results[row["name"]]
        training = result.training.get("training", {})
        metric = result.training.get("settings", {}).get("training", {}).get("metric", "ndcg@10")
        valid = training.get("valid", {}).get(metric)
        rows.append(
            [
                escape(row["name"]),
                str(row["seed"]),
                f"{training.get('best_epoch', '–')} of {training.get('epochs', '–')}",
                "–" if valid is None else f"{valid:.4f} {metric.upper()}",
                human_count(row["parameters"]["trainable"]),
                f"{result.seconds:.1f}",
                f"<code>{escape((row['checkpoint_hash'] or '')[:12])}</code>",
            ]
        )
    header = ["Model", "Seed", "Best epoch", "On validation", "Trainable", "Test ranking, s", "Checkpoint"]
    trained = table("How each model was selected; times and sizes as measured", header, rows)
    return section("Conditions", facts(entries), trained if rows else "")
