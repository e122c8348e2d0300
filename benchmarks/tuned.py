"""The tuned distilled student against the tuned student alone, equal budgets: two sweeps, then seeds of each winner.

    python benchmarks/tuned.py [--minutes N] [--data-dir D] [--only 'amazon-*'] [--seeds 3] [--concurrent 1] [--table]

For each data set of `benchmarks/spaces/` there are two spaces, `alone.yaml` and `distilled.yaml`, over students of the
data set's `benchmarks/configs/*.yaml`; both must try equally many configurations of equally many epochs with the same
search and stopping, or the run is refused. Each sweep selects on validation; its winner is trained anew with every seed
on the student's own epochs and evaluated on test, once per seed.

Sweeps are cells (`benchmarks/cells.py`, `<student>.sweep.json`) as the winners' seeds are. A run fills missing cells,
the sweeps first; trials that ended and epochs that were trained are kept under --storage, and the next run goes on
there. `--table` only draws what exists.

The teacher and its signals are those of `benchmarks/quality.py`, where --storage is the same.
"""

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import cells
import quality
from cells import Column, Gap, OutOfTimeError, Row, Store, Table, fill, show
from harness import ROOT, Options, main, scratch
from quality import Cell, compute, make_signals, prepare_dataset, project_of, quick_settings

from recsys.config import digest, from_dict, key_values, load_config, to_dict
from recsys.errors import UserError
from recsys.settings import Settings, StudentSettings
from recsys.tuning.config import SweepConfig, candidate
from recsys.tuning.records import Record, best
from recsys.tuning.records import show as show_value

STORE = Store(ROOT / "results" / "tuned")
SPACES = ROOT / "spaces"
KINDS = ("alone", "distilled")
SWEEP_COLUMNS = {
    "epochs": Column(lambda value: value["epochs"], ",.0f"),
    "minutes": Column(lambda value: value["seconds"] / 60, ".0f"),
    "as configured, valid NDCG@10": Column(lambda value: value["first"]),
    "winner, valid NDCG@10": Column(lambda value: value["winner"]["quality"]),
}
TEST_COLUMNS = {**quality.columns(True), "numbers served": Column(lambda value: value["parameters"]["served"], ",.0f")}
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

    def cells(self, store: Store, kind: str, seeds: int) -> list[Cell]:
        """The winner with each seed; none where the sweep is missing."""
        found = store.read(Sweep(self, kind))
        if found is None:
            return []
        name = f"{self.spaces[kind].student}-tuned"
        students = {**self.settings.students, name: candidate(self.student(kind), found["winner"]["parameters"])}
        tuned = replace(self.settings, students=students)
        return [self.cell(tuned, name, kind, seed) for seed in range(seeds)]

    def cell(self, settings: Settings, name: str, kind: str, seed: int) -> Cell:
        student = settings.students[name]
        column = "distilled" if kind == "distilled" else f"alone_{student.loss.kind}"
        return Cell(settings, name, column, student.model.kind, seed)


@dataclass(frozen=True)
class Sweep:
    """The cell of a sweep."""

    contest: Contest
    kind: str

    @property
    def settings(self) -> Settings:
        return self.contest.settings

    @property
    def space(self) -> SweepConfig:
        return self.contest.spaces[self.kind]

    @property
    def id(self) -> str:
        return f"{self.contest.id}/{self.space.student}.sweep"

    @property
    def key(self) -> str:
        """Digest of what the sweep depends on."""
        space = key_values(self.space, defaults=False)
        space["parameters"] = to_dict(self.space)["parameters"]  # their kinds are defaults
        space["trials"] = self.space.trials  # a sweep goes on with more of them; here they are the budget
        return digest([self.contest.cell(self.settings, self.space.student, self.kind, 0).key, space])


def body(options: Options) -> dict[str, Any]:
    if options.quick:
        with scratch() as folder:
            contest = _quick(folder)
            run(contest, Store(Path(folder, "store")), 1, options, KINDS[:1])
            return show(tables(Store(Path(folder, "store")), 1, [contest]))
    contests, seeds = load(options.args.storage), options.args.seeds
    for contest in contests:
        run(contest, STORE, seeds, options)
    return show(tables(STORE, seeds, contests))


def load(storage: str | None = None) -> list[Contest]:
    """Every data set that has spaces."""
    spaces = {
        folder.name: {kind: load_config(SweepConfig, folder / f"{kind}.yaml") for kind in KINDS}
        for folder in SPACES.iterdir()
        if folder.is_dir()
    }
    return [
        Contest(settings, spaces[settings.name])
        for settings in quality.load(storage, quality.CONFIGS / "tuned")
        if settings.name in spaces
    ]


def run(contest: Contest, store: Store, seeds: int, options: Options, kinds: Sequence[str] = KINDS) -> None:
    """Fill what is missing until the time is up."""
    fill(store, [Sweep(contest, kind) for kind in kinds], prepare_dataset, search, options)
    winners = [cell for kind in kinds for cell in contest.cells(store, kind, seeds)]
    fill(store, sorted(winners, key=lambda cell: cell.seed), prepare_dataset, compute, options)


def search(cell: Sweep, _: Any, options: Options) -> dict[str, Any]:
    """Run the sweep, or what is left of it; what it found.

    Raises:
        OutOfTimeError: it is not through.
    """
    import ray

    from ray_jobs.sweeps import search  # trials run side by side on Ray Tune
    from recsys.stages.sweep import Sweep as Trials

    project, space = project_of(cell.settings), cell.space
    if cell.kind == "distilled":
        make_signals(project, options)
    if options.seconds_left <= 0:
        raise OutOfTimeError
    concurrent = 1 if options.quick else options.args.concurrent
    timed = replace(space, minutes=options.seconds_left / 60, concurrent=concurrent)
    name = f"{cell.kind}-{cell.key[:8]}"
    trials = Trials(project, name, timed)
    try:
        search.run(project, name, timed, resume=True)
    except UserError:
        if options.seconds_left > 0:
            raise
    finally:
        ray.shutdown()
    records = trials.store.list_ended()
    if not trials.is_through() and options.seconds_left <= 0:
        raise OutOfTimeError
    return {**summarise(records, space), "concurrent": concurrent}


def summarise(records: Sequence[Record], space: SweepConfig) -> dict[str, Any]:
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


def tables(store: Store = STORE, seeds: int = 3, contests: Sequence[Contest] | None = None) -> list[Table]:
    """Of each data set the sweeps and the winners on test."""
    drawn = []
    for contest in load() if contests is None else contests:
        space, sweeps, winners, notes = contest.spaces["alone"], [], [], []
        for kind in KINDS:
            sweep, student = Sweep(contest, kind), contest.spaces[kind].student
            gaps = [Gap(f"{contest.id}/{student}-tuned.seed{seed}") for seed in range(seeds)]
            sweeps.append(Row(f"{student}.sweep", [sweep], kind))
            winners.append(Row(f"{student}-tuned", contest.cells(store, kind, seeds) or gaps, kind))
            if found := store.read(sweep, earlier=True):
                chosen = ", ".join(f"`{name}` {show_value(v)}" for name, v in found["winner"]["parameters"].items())
                notes.append(f"Winner {kind}: {chosen}.")
        budget = f"{space.trials} configurations, at most {space.epochs or 'their own'} epochs per trial"
        says = f"sweeps of {budget}, {space.search}, {space.stopping.kind}"
        drawn.append(Table(contest.id, says, store, SWEEP_COLUMNS, sweeps, notes))
        epochs = contest.student("alone").training.epochs
        says = f"the winners by validation trained anew for at most {epochs} epochs; {quality.SAYS[True]}"
        table = Table(contest.id, says, store, TEST_COLUMNS, winners)
        alone, distilled = (table.figures(row)["NDCG@10"] for row in winners)
        if alone and distilled:
            gain = distilled["mean"] / alone["mean"] - 1
            mark = " †" if "earlier" in alone or "earlier" in distilled else ""
            table = replace(table, notes=[f"Distilled against alone, NDCG@10: **{100 * gain:+.1f} %**{mark}."])
        drawn.append(table)
    return drawn


def _quick(folder: str) -> Contest:
    """The tiny fixture, two trials of an epoch."""
    rate = {"kind": "loguniform", "low": 1e-3, "high": 1e-2}
    students = {"alone": "softmax", "distilled": "distilled"}
    values: dict[str, Any] = {"trials": 2, "parameters": {"training.learning_rate": rate}}
    spaces = {kind: from_dict(SweepConfig, {**values, "student": students[kind]}) for kind in KINDS}
    return Contest(quick_settings(folder), spaces)


def arguments(parser: argparse.ArgumentParser) -> None:
    cells.arguments(parser)
    parser.add_argument("--concurrent", type=int, metavar="N", help="trials at a time (default: one per core)")


if __name__ == "__main__":
    main(__doc__, body, minutes=60, arguments=arguments)
