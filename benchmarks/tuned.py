"""The tuned distilled student against the tuned student alone, equal budgets: two sweeps, then seeds of each winner.

    python benchmarks/tuned.py [--minutes N] [--data-dir D] [--only 'amazon-*'] [--seeds 3] [--concurrent 1] [--table]

For each data set of `benchmarks/spaces/` there are two spaces, `alone.yaml` and `distilled.yaml`, over students of the
data set's `benchmarks/configs/*.yaml`; both must try equally many configurations of equally many epochs with the same
search and stopping, or the run is refused. Each sweep selects on validation; its winner is trained anew with every seed
on the student's own epochs and evaluated on test, once a seed.

Everything is a cell of a store, `benchmarks/results/tuned/<data set>/<protocol>/<student>.sweep.json` and
`<student>-tuned.seed<n>.json`. A run fills missing cells, the sweeps first, until the time is up; trials that ended and
epochs that were trained are kept under --storage, and the next run goes on there. A cell whose configuration changed
counts as missing. `--table` only draws what exists, into docs/results.md; as every run does at its end.

The teacher and its signals are those of `benchmarks/quality.py`, where --storage is the same.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from harness import ROOT, Options, main, progress, scratch
from quality import CONFIGS, Cell, OutOfTimeError, fill, make_signals, prepared, project_of, quick_settings, read

from recsys import environment
from recsys.config import digest, from_dict, key_values, load_config, to_dict
from recsys.errors import UserError
from recsys.settings import Settings, StudentSettings
from recsys.tuning.config import SweepConfig, candidate
from recsys.tuning.records import Record, best, show

STORE = ROOT / "results" / "tuned"
SPACES = ROOT / "spaces"
PAGE = ROOT.parent / "docs" / "results.md"
KINDS = ("alone", "distilled")
_BUDGET = ("trials", "epochs", "search", "objectives", "stopping", "defaults", "seed")


@dataclass(frozen=True)
class Contest:
    """The two spaces of a data set, by kind."""

    settings: Settings
    spaces: dict[str, SweepConfig]

    def __post_init__(self) -> None:
        one, other = (self.spaces[kind] for kind in KINDS)
        unequal = [name for name in _BUDGET if getattr(one, name) != getattr(other, name)]
        epochs = [self.student(kind).training.epochs for kind in KINDS]
        if unequal or epochs[0] != epochs[1]:
            which = (*unequal, "training.epochs")[0]
            raise UserError(f"{self.settings.name}: budgets of alone and distilled differ in {which}; make them equal")

    @property
    def id(self) -> str:
        return f"{self.settings.name}/{self.settings.data.protocol}"

    def student(self, kind: str) -> StudentSettings:
        name = self.spaces[kind].student
        if name not in self.settings.students:
            raise UserError(f"{self.settings.name}: {kind}.yaml is for student {name}, which it does not have")
        return self.settings.students[name]

    def file(self, kind: str) -> str:
        return f"{self.id}/{self.spaces[kind].student}.sweep"

    def key(self, kind: str) -> str:
        """Digest of what the sweep depends on."""
        space = key_values(self.spaces[kind], defaults=False)
        space["parameters"] = to_dict(self.spaces[kind])["parameters"]  # their kinds are defaults
        space["trials"] = self.spaces[kind].trials  # a sweep goes on with more of them; here they are the budget
        return digest([self._cell(self.settings, self.spaces[kind].student, kind, 0).key, space])

    def winner(self, store: Path, kind: str) -> dict[str, Any] | None:
        """The stored sweep, or None where there is none of this configuration."""
        file = store / f"{self.file(kind)}.json"
        value = json.loads(file.read_text()) if file.exists() else None
        return value if value and value["key"] == self.key(kind) else None

    def cells(self, store: Path, kind: str, seeds: int) -> list[Cell]:
        """The winner with each seed; none where the sweep is missing."""
        found = self.winner(store, kind)
        if found is None:
            return []
        name = f"{self.spaces[kind].student}-tuned"
        students = {**self.settings.students, name: candidate(self.student(kind), found["winner"]["parameters"])}
        tuned = replace(self.settings, students=students)
        return [self._cell(tuned, name, kind, seed) for seed in range(seeds)]

    def _cell(self, settings: Settings, name: str, kind: str, seed: int) -> Cell:
        student = settings.students[name]
        column = "distilled" if kind == "distilled" else f"alone_{student.loss.kind}"
        return Cell(settings, name, column, student.model.kind, seed)


def body(options: Options) -> dict[str, Any]:
    args = options.args
    if options.quick:
        with scratch() as folder:
            contest = _quick(folder)
            search(contest, "alone", Path(folder, "store"), options)
            fill(contest.cells(Path(folder, "store"), "alone", 1), Path(folder, "store"), options)
            return table([contest], Path(folder, "store"), 1, None)
    contests = [contest for contest in load(args.storage) if fnmatch(contest.settings.name, args.only)]
    if not args.table:
        for contest in contests:
            run(contest, options)
    return table(contests, STORE, args.seeds, PAGE)


def load(storage: str | None) -> list[Contest]:
    """Every data set that has spaces."""
    storage = storage or Settings().layout.storage_root
    found = []
    for folder in sorted(path for path in SPACES.iterdir() if path.is_dir()):
        settings = load_config(Settings, CONFIGS / f"{folder.name}.yaml", [f"storage={storage}", "tracking.uri=none"])
        spaces = {kind: load_config(SweepConfig, folder / f"{kind}.yaml") for kind in KINDS}
        found.append(Contest(settings, spaces))
    return found


def run(contest: Contest, options: Options) -> None:
    """Fill what is missing until the time is up."""
    try:
        for kind in KINDS:
            if contest.winner(STORE, kind) is None:
                search(contest, kind, STORE, options)
    except OutOfTimeError:
        progress("  the time is up; the next run continues here")
        return
    every = [cell for kind in KINDS for cell in contest.cells(STORE, kind, options.args.seeds)]
    fill(sorted((c for c in every if read(STORE, c) is None), key=lambda c: c.seed), STORE, options)


def search(contest: Contest, kind: str, store: Path, options: Options) -> None:
    """Run the sweep, or what is left of it, and store what it found.

    Raises:
        OutOfTimeError: it is not through.
    """
    import ray

    from ray_jobs.sweeps import search
    from ray_jobs.sweeps.sweep import Sweep

    prepared(contest.settings, options)
    project, space = project_of(contest.settings), contest.spaces[kind]
    if kind == "distilled":
        make_signals(project, options)
    if options.seconds_left <= 0:
        raise OutOfTimeError
    progress(f"{contest.file(kind)} ({options.seconds_left / 60:.0f} min left)")
    concurrent = 1 if options.quick else options.args.concurrent
    timed = replace(space, minutes=options.seconds_left / 60, concurrent=concurrent)
    name = f"{kind}-{contest.key(kind)[:8]}"
    sweep = Sweep(project, name, timed)
    try:
        search.run(project, name, timed, resume=True)
    except UserError:
        if options.seconds_left > 0:
            raise
    finally:
        ray.shutdown()
    records = sweep.store.list_ended()
    if not sweep.is_through() and options.seconds_left <= 0:
        raise OutOfTimeError
    value = {"key": contest.key(kind), **summary(records, space), "concurrent": concurrent}
    value |= {"versions": environment.versions(), "hardware": environment.hardware()}
    file = store / f"{contest.file(kind)}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(value, indent=2) + "\n")


def summary(records: Sequence[Record], space: SweepConfig) -> dict[str, Any]:
    """What a sweep spent and found; of the winner all but its process and MLflow run."""
    found = best(records)
    if found is None:
        raise UserError(
            f"no trial of {space.student} finished an epoch: {records[0].reason if records else 'none ran'}"
        )
    statuses = [record.status for record in records]
    return {
        "trials": len(records),
        "epochs": sum(record.epochs for record in records),
        "epochs_of_a_trial": space.epochs,
        "statuses": {status: statuses.count(status) for status in sorted(set(statuses))},
        "seconds": max(record.elapsed for record in records),
        "train_seconds": sum(record.train_seconds for record in records),
        "first": records[0].quality,
        "winner": {k: v for k, v in asdict(found).items() if k not in ("worker", "run", "digest")},
    }


def table(contests: Sequence[Contest], store: Path, seeds: int, page: Path | None) -> dict[str, Any]:
    """What exists: data set → kind → figures; drawn into `page`."""
    figures: dict[str, Any] = {}
    missing = 0
    lines = []
    for contest in contests:
        place: dict[str, Any] = figures.setdefault(contest.id, {})
        for kind in KINDS:
            sweep = contest.winner(store, kind)
            cells = [value for cell in contest.cells(store, kind, seeds) if (value := read(store, cell))]
            missing += (sweep is None) + seeds - len(cells)
            metrics = [value["metrics"]["masked"] for value in cells]
            place[kind] = {
                "sweep": sweep and {k: sweep[k] for k in ("trials", "epochs", "seconds", "first")},
                "valid": sweep and sweep["winner"]["quality"],
                "parameters": sweep and sweep["winner"]["parameters"],
                **{name: [m[name] for m in metrics] for name in ("ndcg@10", "hr@10")},
                "served": cells[0]["parameters"]["served"] if cells else None,
            }
        lines += _drawn(contest, place, seeds)
    if page is not None:
        write_section(page, "tuned", "\n".join(lines))
    progress("\n".join(lines) + f"\n\n{missing} cells are missing")
    return {**figures, "missing": missing}


def _drawn(contest: Contest, place: dict[str, Any], seeds: int) -> list[str]:
    """A section in Markdown; gaps are dashes."""
    space = contest.spaces["alone"]
    lines = [
        f"## {contest.settings.name}: tuned alone against tuned distilled",
        "",
        f"{space.trials} configurations each, at most {space.epochs or 'their own'} epochs per trial, {space.search}, "
        f"{space.stopping.kind}; the winner by validation trained anew for at most "
        f"{contest.student('alone').training.epochs} epochs with {seeds} seeds. Test by full ranking, "
        f"{contest.settings.data.protocol}, items of the past left out; mean ± standard deviation over seeds.",
        "",
        "| | alone | distilled |",
        "|---|---|---|",
    ]

    def row(title: str, text: Any) -> None:
        cells = (text(place[kind]) for kind in KINDS)
        lines.append(f"| {title} | " + " | ".join("–" if cell is None else cell for cell in cells) + " |")

    def sweep(name: str, form: str) -> Any:
        return lambda kind: kind["sweep"] and format(kind["sweep"][name], form)

    row("epochs of the sweep", sweep("epochs", ",d"))
    row("minutes of the sweep", lambda kind: kind["sweep"] and f"{kind['sweep']['seconds'] / 60:.0f}")
    row("as configured, valid NDCG@10 in the sweep", lambda kind: kind["sweep"] and _number(kind["sweep"]["first"]))
    row("winner, valid NDCG@10 in the sweep", lambda kind: _number(kind["valid"]))
    for name in ("ndcg@10", "hr@10"):
        row(f"**test {name.upper()}**", lambda kind, name=name: _spread(kind[name]))
    row("test NDCG@10 by seed", lambda kind: ", ".join(f"{v:.4f}" for v in kind["ndcg@10"]) or None)
    row("numbers served", lambda kind: kind["served"] and f"{kind['served']:,}")
    for kind in KINDS:
        if parameters := place[kind]["parameters"]:
            lines += ["", f"Winner {kind}: " + ", ".join(f"`{k}` {show(v)}" for k, v in parameters.items()) + "."]
    alone, distilled = (place[kind]["ndcg@10"] for kind in KINDS)
    if alone and distilled:
        gain = mean(distilled) / mean(alone) - 1
        lines += ["", f"Distilled against alone, NDCG@10: **{100 * gain:+.1f} %**."]
    return [*lines, ""]


def _number(value: float | None) -> str | None:
    return None if value is None else f"{value:.4f}"


def _spread(values: Sequence[float]) -> str | None:
    if not values:
        return None
    return f"{mean(values):.4f}" + (f" ± {stdev(values):.4f}" if len(values) > 1 else "") + f" ({len(values)})"


def write_section(page: Path, name: str, text: str) -> None:
    """Put `text` between the marks of `name` in a page, which is made where it is not there; the rest stays."""
    begin, end = f"<!-- {name}: drawn by benchmarks/{name}.py -->", f"<!-- {name}: end -->"
    section = f"{begin}\n\n{text.strip()}\n\n{end}"
    old = page.read_text() if page.exists() else "# Results\n\nTables drawn from stores of cells.\n"
    before, found, rest = old.partition(begin)
    if found:
        page.write_text(before + section + rest.partition(end)[2])
    else:
        page.write_text(f"{old.rstrip()}\n\n{section}\n")


def _quick(folder: str) -> Contest:
    """The tiny fixture, two trials of an epoch."""
    rate = {"kind": "loguniform", "low": 1e-3, "high": 1e-2}
    students = {"alone": "softmax", "distilled": "distilled"}
    values: dict[str, Any] = {"trials": 2, "parameters": {"training.learning_rate": rate}}
    spaces = {kind: from_dict(SweepConfig, {**values, "student": students[kind]}) for kind in KINDS}
    return Contest(quick_settings(folder), spaces)


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seeds", type=int, default=3, help="of each winner (default 3)")
    parser.add_argument("--only", default="*", metavar="PATTERN", help="data sets, such as 'amazon-*'")
    parser.add_argument("--concurrent", type=int, metavar="N", help="trials at a time (default: one per core)")
    parser.add_argument("--table", action="store_true", help="only draw the table")
    parser.add_argument("--storage", metavar="ROOT", help="where work is kept (default: $RECSYS_STORAGE, else ./runs)")


if __name__ == "__main__":
    main(__doc__, body, minutes=60, arguments=arguments)
