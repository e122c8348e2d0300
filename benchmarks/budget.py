"""Teacher budget: what a student gains when the teacher ranks a share of the training rows, by how they are chosen.

    python benchmarks/budget.py [--minutes N] [--data-dir D] [--only 'ml-100k/*'] [--seeds 1] [--table] [--plot FOLDER]

The teacher is cheap: the sequential rules, with titles where there are some, each user's own events left out. Its lists
are all that the student takes; it is the `sasrec` of `benchmarks/configs/<data set>.yaml`, taught by the ranking loss
of `sasrec-taught` there. Curves are `signals.choose_rows`, the rows chosen once, by the student alone of seed 0, and
two controls on the random sample: `permuted` teaches each row another's list; with `per-row` a row weighs as much as it
does among all, whereas otherwise fewer rows weigh more. Of all rows there is nothing to choose.

A cell (`benchmarks/cells.py`) is one evaluation on test with one seed, the most telling first; a run fills missing
cells, an interrupted training continues with the next run. The store holds seconds: of the teacher for the ranking
itself (not of counting before it), and of the choice. `--plot` draws what there is, one PNG a data set.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

import cells
import quality
from cells import Column, Row, Store, Table, fill, show
from harness import ROOT, Options, main, progress, scratch
from quality import in_process, prepare_dataset, project_of, quick_settings

from recsys.config import beyond_defaults, digest, from_dict, key_values, to_dict
from recsys.data.prepared import PreparedDataset
from recsys.settings import Settings, StudentSettings
from recsys.signals.config import SignalsConfig

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STORE = Store(ROOT / "results" / "budget")
DATA_SETS = ("ml-100k", "amazon-beauty-2014-5core")
ALONE, TAUGHT = "sasrec", "sasrec-taught"
CHOOSER = f"{ALONE}.seed0"
CHOICES = ("random", "uncertainty", "coverage", "disagreement")
CONTROL, PER_ROW = "permuted", "per-row"
CURVES = (*CHOICES, PER_ROW, CONTROL)
SHARES = (10, 3, 30, 1)  # percent, the most telling first
SAYS = "test, full ranking, items of the past left out; a SASRec of ids, taught lists of the rules"
ENOUGH = 0.9
_COLOURS = {
    "random": "#808790", "uncertainty": "#3f83d1", "coverage": "#2f9270", "disagreement": "#d2691e",
    PER_ROW: "#333333", CONTROL: "#9a6dd7",
}  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One evaluation: `percent` of the training rows are taught, chosen by `choice`; 0 is the student alone.

    With 100 there is no choice: `random` stands for all.
    """

    settings: Settings
    choice: str
    percent: int
    seed: int

    @property
    def model(self) -> str:
        """The row of the table."""
        if self.choice != CONTROL and self.percent in (0, 100):
            return "all" if self.percent else "alone"
        return f"{self.choice}-{self.percent}"

    @property
    def id(self) -> str:
        return f"{self.settings.name}/{self.settings.data.protocol}/{self.model}.seed{self.seed}"

    @property
    def key(self) -> str:
        parts: list[Any] = [quality.find_cell(self.settings, ALONE, self.seed).key]
        if self.percent:
            config = {"k": self.settings.signals.k, "mask_history": self.settings.signals.mask_history}
            parts += [key_values(self.settings.rules, defaults=False), beyond_defaults(self.lesson), config]
            parts += [self.choice, self.percent, quality.find_cell(self.settings, ALONE, 0).key]
        return digest(parts)

    @property
    def set_name(self) -> str:
        """The set of signals; that of a control is the random one."""
        return f"budget-{self.choice if self.choice in CHOICES else 'random'}-{self.percent}"

    @property
    def lesson(self) -> StudentSettings:
        """The student: that alone, and lists."""
        alone, taught = (self.settings.students[name] for name in (ALONE, TAUGHT))
        if not self.percent:
            return alone
        assert taught.distillation is not None and taught.distillation.ranking is not None
        ranking = replace(taught.distillation.ranking, permuted=self.choice == CONTROL)
        if self.choice == PER_ROW:
            ranking = replace(ranking, weight=ranking.weight * self.percent / 100)
        lists = replace(taught.distillation, signals=self.set_name, ranking=ranking, embedding=None)
        return replace(alone, distillation=lists)

    def signals(self, rows: int) -> SignalsConfig:
        """Those of a data set of so many training rows."""
        chosen = {}
        if self.percent < 100:
            chosen["train_rows"] = max(1, round(rows * self.percent / 100))
            if self.choice in CHOICES:
                chosen["choose_rows"] = self.choice
            if self.choice in ("uncertainty", "disagreement"):
                chosen["choose_student"] = CHOOSER
        said = to_dict(self.settings.signals) | {"name": self.set_name, "splits": ["train"], **chosen}
        return from_dict(SignalsConfig, said)


def order_cells(loaded: Sequence[Settings], seeds: int) -> list[Cell]:
    """Seed by seed: alone, all, the control of all, then share by share; data sets one after the other."""
    points = [("random", 0), ("random", 100), (CONTROL, 100)]
    points += [(choice, percent) for percent in SHARES for choice in CURVES]
    return [Cell(each, *point, seed) for seed in range(seeds) for each in loaded for point in points]


def body(options: Options) -> dict[str, Any]:
    if options.quick:
        with scratch() as folder:
            quick, store = quick_settings(folder), Store(Path(folder, "store"))
            loaded = [replace(quick, students={ALONE: quick.students["softmax"], TAUGHT: quick.students["taught"]})]
            wanted = [cell for cell in order_cells(loaded, 1) if cell.percent in (0, 10, 100)]
            fill(store, wanted, prepare_dataset, compute, options)
            draw(loaded[0], 1, store)
            return show(tables(store, 1, loaded))
    seeds, loaded = options.args.seeds, load(options.args.storage)
    fill(STORE, order_cells(loaded, seeds), prepare_dataset, compute, options)
    if options.args.plot:
        write_plots(options.args.plot, loaded, seeds)
    reached = {settings.name: enough(settings, seeds, STORE) for settings in loaded}
    return {**show(tables(STORE, seeds, loaded)), f"percent for {ENOUGH:.0%} of the gain": reached}


def load(storage: str | None = None) -> list[Settings]:
    every = {settings.name: settings for settings in quality.load(storage)}
    return [every[name] for name in DATA_SETS]


def compute(cell: Cell, dataset: PreparedDataset, options: Options) -> dict[str, Any]:
    """Have the rows chosen and ranked, train the student, evaluate it on test."""
    budget: dict[str, Any] = {"rows": 0, "of": len(dataset.rows("train")), "teacher_seconds": 0.0}
    settings, name = cell.settings, ALONE
    if cell.percent:
        budget |= make_signals(cell, dataset, options)
        name = f"budget-{cell.model}"
        settings = replace(settings, students={**settings.students, name: cell.lesson})
    student = quality.Cell(settings, name, "alone_softmax", settings.students[name].model.kind, cell.seed)
    return {**quality.compute(student, dataset, options), "key": cell.key, "budget": budget}


def make_signals(cell: Cell, dataset: PreparedDataset, options: Options) -> dict[str, Any]:
    """Rows and seconds of the cell's signals, which are made in this process unless they are there."""
    from recsys import storage
    from recsys.stages import row_choice, rules, student

    config = cell.signals(len(dataset.rows("train")))
    alone = cell.settings.students[ALONE]
    chooser = replace(alone, training=replace(alone.training, seed=0))
    settings = replace(project_of(cell.settings), signals=config, students={CHOOSER: chooser})
    layout, executor = settings.layout, in_process(alone.training.metric, options)
    rules.make(settings, executor, signals=False)
    for name in row_choice.find_needed_students(settings):
        student.make(settings, name, executor)
    rules.make_signals_at(layout.signals, settings, executor)
    cost = storage.read_json(storage.join(layout.signals, "signals.json"))
    found = {"rows": cost["rows"]["train"], "teacher_seconds": cost["cost"]["teacher_seconds"]}
    if config.choose_rows != "random":
        found["choice_seconds"] = storage.read_json(storage.join(layout.chosen_rows, "chosen.json"))["seconds"]
    return found


def ndcg(value: dict[str, Any]) -> float:
    found: float = value["metrics"]["masked"]["ndcg@10"]
    return found


def average(store: Store, settings: Settings, choice: str, percent: int, seeds: int, of: Callable[..., float]) -> Any:
    """The mean over the seeds that are there, None where none is."""
    there = [store.read(Cell(settings, choice, percent, seed)) for seed in range(seeds)]
    return mean(of(value) for value in there if value) if any(there) else None


def curve(store: Store, settings: Settings, choice: str, seeds: int) -> dict[int, float | None]:
    """Percentage of the rows → mean NDCG@10, the least first; the curves of all choices end with all rows."""
    found = {percent: average(store, settings, choice, percent, seeds, ndcg) for percent in sorted(SHARES)}
    end = CONTROL if choice == CONTROL else "random"
    return {**found, 100: average(store, settings, end, 100, seeds, ndcg)}


def share_of_gain(store: Store, settings: Settings, seeds: int) -> Callable[[float], float] | None:
    """From a quality to its share of what teaching all rows gains; None where that is not known or no gain."""
    alone, whole = (average(store, settings, "random", percent, seeds, ndcg) for percent in (0, 100))
    if alone is None or whole is None or whole <= alone:
        return None
    return lambda reached: (reached - alone) / (whole - alone)


def enough(settings: Settings, seeds: int, store: Store) -> dict[str, int | None]:
    """Choice → the least measured percentage of rows from which on every larger one reaches `ENOUGH` of the gain of all
    rows; None where there is none, or a cell is missing."""
    share = share_of_gain(store, settings, seeds)
    found: dict[str, int | None] = dict.fromkeys(CURVES)
    for choice in found:
        reached = curve(store, settings, choice, seeds)
        if share is None or None in reached.values():
            continue
        for percent, value in reversed(reached.items()):
            if value is None or share(value) < ENOUGH:
                break
            found[choice] = percent
    return found


def tables(store: Store = STORE, seeds: int = 3, loaded: Sequence[Settings] | None = None) -> list[Table]:
    drawn = []
    for settings in load() if loaded is None else loaded:
        share = share_of_gain(store, settings, seeds)
        columns = {
            "NDCG@10": Column(ndcg),
            "HR@10": Column(lambda value: value["metrics"]["masked"]["hr@10"]),
            **({"of the gain": Column(lambda value, share=share: share(ndcg(value)), ".0%")} if share else {}),
            "rows": Column(lambda value: value["budget"]["rows"], ",.0f"),
            "teacher, s": Column(lambda value: value["budget"]["teacher_seconds"], ".1f"),
            "choice, s": Column(lambda value: value["budget"].get("choice_seconds", 0), ".1f"),
        }
        order = sorted(order_cells([settings], seeds), key=lambda cell: (place(cell), cell.seed))
        rows = [Row(name, list(row)) for name, row in groupby(order, key=lambda cell: cell.model)]
        drawn.append(Table(f"{settings.name}/{settings.data.protocol}", SAYS, store, columns, rows))
    return drawn


def place(cell: Cell) -> tuple[int, int]:
    """Where a table has a cell: alone, all, then choice by choice."""
    order = 0 if cell.model in ("alone", "all") else 1 + CURVES.index(cell.choice)
    return order, cell.percent


def draw(settings: Settings, seeds: int, store: Store = STORE) -> "Figure":
    """NDCG@10 against the share of rows that were taught (log), with the teacher's seconds above."""
    from recsys.evaluation.plots import new_axes

    figure, axes = new_axes("wide")
    axes.set_xscale("log")
    for choice in CURVES:
        points = [point for point in curve(store, settings, choice, seeds).items() if point[1] is not None]
        if len(points) > 1:
            style = "o-" if choice in CHOICES else "s--"
            axes.plot(*zip(*points, strict=True), style, color=_COLOURS[choice], label=choice, markersize=4)
    alone = average(store, settings, "random", 0, seeds, ndcg)
    if alone is not None:
        axes.axhline(alone, color="#333333", linewidth=1, linestyle=":", label="alone")
    ticks = sorted({*SHARES, 100})
    axes.set_xticks(ticks, labels=[f"{percent} %" for percent in ticks])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("training rows that the teacher ranked")
    axes.set_ylabel("NDCG@10 on test")
    seconds = average(store, settings, "random", 100, seeds, lambda value: value["budget"]["teacher_seconds"])
    if seconds:
        above = axes.secondary_xaxis("top", functions=(lambda x: x * seconds / 100, lambda x: x * 100 / seconds))
        above.set_xlabel("seconds of the teacher")
    if alone is not None:
        axes.legend(frameon=False, fontsize=8)
    return figure


def write_plots(folder: Path, loaded: Sequence[Settings], seeds: int) -> None:
    from recsys.evaluation.plots import write_png

    for settings in loaded:
        if STORE.read(Cell(settings, "random", 100, 0)):
            write_png(draw(settings, seeds), folder / f"{settings.name}.png")
            progress(f"drawn: {folder / settings.name}.png")


def arguments(parser: argparse.ArgumentParser) -> None:
    cells.arguments(parser)
    parser.set_defaults(seeds=1)
    parser.add_argument("--plot", type=Path, metavar="FOLDER", help="draw the curves there, one PNG a data set")


if __name__ == "__main__":
    main(__doc__, body, minutes=60, arguments=arguments)
