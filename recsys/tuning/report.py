"""The report of a sweep: `sweep.html`, one file that needs nothing else, and its pictures as PNG."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recsys.evaluation import plots as house
from recsys.evaluation.ladder import human_count, human_ms
from recsys.evaluation.page import facts, figure, page, paragraph, section, table
from recsys.tuning import plots
from recsys.tuning.config import SweepConfig
from recsys.tuning.records import Record, best, front, short_names, show

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHOWN = 12  # trials in the first table; the others are one click away
_SEARCH = {
    "tpe": "tree-structured Parzen estimator (Optuna)",
    "random": "random draws",
    "grid": "every combination",
    "population": "random draws, changed on the way (population-based training)",
}
_STOPPING = {
    "asha": "asynchronous successive halving: after {grace} epochs, {reduction} times that, and so on, the best "
    "1/{reduction} of the trials seen there go on",
    "median": "after {grace} epochs, a trial whose best epoch is worse than the median of the others' means ends",
    "none": "none, every trial ran to its end",
}


def write_report(directory: Path, about: Mapping[str, Any], config: SweepConfig, records: Sequence[Record]) -> None:
    """Write `sweep.html` and the PNG files into `directory`.

    Args:
        about: "name" of the sweep, "epochs" of a trial at most, "defaults" (parameters of the student as it is
            configured, or None), "importances" of parameters, "dataset" (name, fingerprint), "concurrent" trials,
            "versions", "hardware", "test" (what the retrained winner shows on test, and how many winners of the sweep
            were tested; or None).
        records: of all trials; one at least has a quality.
    """
    winner = best(records)
    assert winner is not None
    body = [
        f"<h1>{escape(about['name'])}: {len(records)} configurations tried</h1>",
        paragraph(
            f"{escape(config.student)} on {about['dataset']['name']}; selected by {winner.metric.upper()} on "
            "validation. Test rows play no part in it.",
            "lead",
        ),
        "<ul class=findings>" + "".join(f"<li>{line}</li>" for line in findings(about, config, records)) + "</ul>",
        _figure_section(
            "Progress",
            "best_so_far",
            lambda form: plots.draw_best_so_far(records, form),
            directory,
            f"Best {winner.metric} so far by minutes of the sweep; it ends at {winner.quality:.4f}",
            "A dot is a trial, where it ended: with its best epoch's quality.",
        ),
        _figure_section(
            "What stopping saved",
            "curves",
            lambda form: plots.draw_curves(records, form),
            directory,
            f"{winner.metric} by epoch for {len(records)} trials",
            describe_spending(about, records),
        ),
    ]
    if about["importances"]:
        leading, share = max(about["importances"].items(), key=lambda entry: entry[1])
        body.append(
            _figure_section(
                "What mattered",
                "importance",
                lambda form: plots.draw_importance(about["importances"], form),
                directory,
                f"Importance of {len(about['importances'])} parameters; {leading} leads with {100 * share:.0f} %",
                "Share of the variance of quality over the space that each parameter explains alone or with others, "
                f"estimated by a random forest on {len(records)} trials (functional ANOVA, Hutter et al. 2014). With "
                "so few trials read it as a hint; trials stopped early count with the quality they had reached.",
            )
        )
    body.append(
        _figure_section(
            "Every trial",
            "parallel_coordinates",
            lambda form: plots.draw_parallel_coordinates(records, config.parameters, form),
            directory,
            f"Parameters of {len(records)} trials as lines, coloured by rank of quality",
            "A line is a trial, from grey to orange by its rank in quality; the thick one is the best.",
        )
    )
    for cost, unit in (("latency", "latency"), ("parameters", "size")):
        if any(record.objective(cost) for record in records if record.quality is not None):
            leaders = ", ".join(f"trial {r.number} ({r.quality:.4f})" for r in front(records, cost))
            body.append(
                _figure_section(
                    f"Quality and {unit}",
                    f"pareto_{cost}",
                    lambda form, cost=cost: plots.draw_pareto(records, cost, form),
                    directory,
                    f"Quality against {unit}; not beaten in both: {leaders}",
                    "Latency was measured inside the trials, beside whatever else the machine did: read it coarsely."
                    if cost == "latency"
                    else "Numbers that the served model keeps.",
                )
            )
    body += [_trials_section(records, winner), _conditions_section(about, config, records)]
    (directory / "sweep.html").write_text(page(f"{about['name']}: sweep", body))


def findings(about: Mapping[str, Any], config: SweepConfig, records: Sequence[Record]) -> list[str]:
    """What the sweep says, as HTML."""
    winner = best(records)
    assert winner is not None
    names = short_names(config.parameters)
    chosen = ", ".join(f"{escape(names[key])} {escape(show(value))}" for key, value in winner.chosen.items())
    lines = [
        f"<strong>Trial {winner.number}</strong> is the best: {winner.metric.upper()} {winner.quality:.4f} on "
        f"validation at epoch {winner.best_epoch}; {chosen}."
    ]
    own = next((r for r in records if r.parameters == about["defaults"] and r.quality is not None), None)
    if own is winner:
        lines.append("It is the student as it was configured: no other trial was better.")
    elif own is not None:
        gain = (winner.quality or 0) - (own.quality or 0)
        lines.append(
            f"The student as it was configured (trial {own.number}) has {own.quality:.4f}, the best {gain:+.4f}. The "
            f"best of {len(records)} draws is partly luck: validation chose it, so expect less of it elsewhere."
        )
    lines.append(escape(describe_spending(about, records)))
    failed = [record for record in records if record.status == "failed"]
    if failed:
        reasons = sorted({record.reason for record in failed})
        lines.append(f"{len(failed)} failed: {escape('; '.join(reasons)[:400])}.")
    if test := about.get("test"):
        lines.append(
            f"Trained anew with {test['seeds']} seed(s) and tested once: NDCG@10 {test['ndcg@10']:.4f}"
            + (f" ± {test['spread']:.4f} (standard deviation)" if test["seeds"] > 1 else "")
            + f", HR@10 {test['hr@10']:.4f}."
            + (
                f" The sweep was given more trials after a test: {test['winners']} of its winners were tested, this is "
                "the last."
                if test["winners"] > 1
                else ""
            )
        )
    return lines


def describe_spending(about: Mapping[str, Any], records: Sequence[Record]) -> str:
    """How many configurations and epochs were spent, in a sentence."""
    epochs = sum(record.epochs for record in records)
    full = len(records) * about["epochs"]
    stopped, cut = (sum(record.status == status for record in records) for status in ("stopped", "cut"))
    return (
        f"{len(records)} configurations were tried with {epochs:,} epochs, {100 * epochs / full:.0f} % of the {full:,} "
        f"that all to the end would take; {stopped} were stopped early"
        + (f", {cut} cut because the time was up." if cut else ".")
    )


def overhead(records: Sequence[Record], concurrent: int) -> float:
    """Share of the sweep's time (places for trials times its seconds) that was not training or validation."""
    room = concurrent * max(record.elapsed for record in records)
    return 1 - sum(record.train_seconds for record in records) / room


def _figure_section(title: str, name: str, draw: "Any", directory: Path, description: str, caption: str) -> str:
    drawn: dict[str, Figure] = {form: draw(form) for form in ("wide", "narrow")}
    house.write_png(drawn["wide"], directory / f"{name}.png")
    wide, narrow = (house.to_svg(drawn[form], f"{name}-{form}") for form in ("wide", "narrow"))
    return section(title, figure(wide, narrow, description, caption))


def _trials_section(records: Sequence[Record], winner: Record) -> str:
    ordered = sorted(records, key=lambda r: (-(r.quality if r.quality is not None else -1), r.number))
    names = short_names(winner.parameters)
    header = ["Trial", winner.metric.upper(), "Epochs", "Status", "Numbers", "ms", "s", *names.values()]

    def rows(chosen: Sequence[Record]) -> list[list[str]]:
        return [
            [
                str(record.number),
                "–" if record.quality is None else f"{record.quality:.4f}",
                str(record.epochs),
                escape(record.status + (f": {record.reason}" if record.status == "failed" else "")),
                "–" if record.size is None else human_count(record.size),
                human_ms(record.latency_ms),
                f"{record.seconds:.0f}",
                *(escape(show(value)) for value in record.chosen.values()),
            ]
            for record in chosen
        ]

    shown = table("The best first; quality is that of the best epoch", header, rows(ordered[:_SHOWN]))
    rest = ordered[_SHOWN:]
    more = table("The others", header, rows(rest)) if rest else ""
    hidden = f"<details><summary>{len(rest)} more trials</summary>{more}</details>" if rest else ""
    return section("Trials", shown, hidden)


def _conditions_section(about: Mapping[str, Any], config: SweepConfig, records: Sequence[Record]) -> str:
    seconds = max(record.elapsed for record in records)
    hardware = about["hardware"]
    entries = [
        ("Selection", f"{records[0].metric.upper()} on validation by full ranking, the best epoch of a trial"),
        ("Search", f"{_SEARCH[config.search]}, seed {config.seed}; objectives: {', '.join(config.objectives)}"),
        (
            "Stopping",
            _STOPPING[config.stopping.kind].format(grace=config.stopping.grace, reduction=config.stopping.reduction),
        ),
        ("Trials at a time", str(about["concurrent"])),
        ("Time", f"{seconds:.0f} s of the sweep, {sum(r.train_seconds for r in records):.0f} s of training"),
        ("Outside training", f"{100 * overhead(records, about['concurrent']):.0f} % of the time of all places"),
        ("Dataset", f"{about['dataset']['name']}, fingerprint {about['dataset']['fingerprint']}"),
        ("Processor", f"{hardware['processor']}, {hardware['cores']} cores, {hardware['memory_gb']:g} GB"),
        ("Versions", ", ".join(f"{name} {version}" for name, version in about["versions"].items())),
    ]
    return section("Conditions", facts(entries))
