"""Stores of cells, and the tables that are drawn from them.

A cell is one evaluation of one model with one seed, in
`benchmarks/results/<benchmark>/<data set>/<protocol>/<model>.seed<n>.json`, with a key (the digest of what it depends
on), the hardware and the versions. A run fills missing cells until the time is up, and the next one goes on. Tables
show what exists and the gaps; a row that has only cells of an earlier configuration is marked. `python benchmarks
--tables` draws them, from the files alone, into every page of docs/ that asks for rows of a benchmark:

    <!-- drawn: quality ml-100k/*/sasrec* -->
    <!-- end -->
"""

import argparse
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from importlib import import_module
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple, Protocol

from harness import ROOT, Options, progress

from recsys import environment, storage
from recsys.errors import UserError

DOCS = ROOT.parent / "docs"
_MARKED = re.compile(r"(<!-- drawn: (\w+) (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
_EARLIER = "† of an earlier configuration; the next run computes it anew."
Value = dict[str, Any]


class Cell(Protocol):
    """`id` is "<data set>/<protocol>/<model>.seed<n>"."""

    @property
    def id(self) -> str: ...

    @property
    def key(self) -> str: ...


class Gap(NamedTuple):
    """A cell of which it is not known yet what it depends on."""

    id: str
    key: str = ""


class OutOfTimeError(Exception):
    """The time is up; what was trained so far is kept for the next run."""


@dataclass(frozen=True)
class Store:
    folder: Path

    def read(self, cell: Cell, *, earlier: bool = False) -> Value | None:
        """A stored cell, or None where there is none of its configuration (`earlier`: of any)."""
        file = self._file(cell)
        value = json.loads(file.read_text()) if file.exists() else None
        return value if value and (earlier or value["key"] == cell.key) else None

    def write(self, cell: Cell, value: Value) -> None:
        storage.write_json(str(self._file(cell)), {"key": cell.key, **environment.conditions(), **value})

    def missing(self, cells: Iterable[Cell]) -> list[Any]:
        return [cell for cell in cells if self.read(cell) is None]

    def _file(self, cell: Cell) -> Path:
        return self.folder / f"{cell.id}.json"


def fill(
    store: Store,
    cells: Iterable[Cell],
    prepare: Callable[[Any, Options], Any],
    compute: Callable[[Any, Any, Options], Value],
    options: Options,
) -> None:
    """Compute missing cells until the time is up; a data set that is not there is said once and left out.

    Args:
        prepared: the data set of a cell; a `UserError` says that it is not there.
        compute: the value of a cell on its data set.
    """
    wanted = [cell for cell in cells if fnmatch(cell.id, options.args.only)]
    missing = store.missing(wanted)
    progress(f"{len(wanted) - len(missing)} of {len(wanted)} cells are there")
    absent: set[str] = set()
    for cell in missing if not options.args.table else ():
        name = cell.id.partition("/")[0]
        if name in absent:
            continue
        if options.seconds_left <= 0:
            break
        progress(f"{cell.id} ({options.seconds_left / 60:.0f} min left)")
        try:
            dataset = prepare(cell, options)
        except UserError as error:
            progress(f"  left out: {error}")
            absent.add(name)
            continue
        try:
            store.write(cell, compute(cell, dataset, options))
        except OutOfTimeError:
            progress("  the time is up; the next run continues here")
            break


class Column(NamedTuple):
    """A number of a cell's value, and its format."""

    of: Callable[[Value], float]
    form: str = ".4f"


class Row(NamedTuple):
    """A model with each of its seeds; drawn by its label, where it has one."""

    name: str
    cells: Sequence[Cell]
    label: str = ""


@dataclass(frozen=True)
class Table:
    """Rows of one data set and protocol, which together are its `id`."""

    id: str
    says: str
    store: Store
    columns: dict[str, Column]
    rows: Sequence[Row]
    notes: Sequence[str] = ()

    @property
    def title(self) -> str:
        return f"{self.id.replace('/', ', ')}: {self.says}"

    def figures(self, row: Row) -> dict[str, Any]:
        """Column → mean over seeds, sample standard deviation (None for one seed), number of seeds; None for a gap."""
        values = [value for cell in row.cells if (value := self.store.read(cell))]
        earlier = {} if values else {"earlier": True}
        values = values or [value for cell in row.cells if (value := self.store.read(cell, earlier=True))]
        found: dict[str, Any] = dict.fromkeys(self.columns)
        for name, column in self.columns.items() if values else ():
            numbers = [column.of(value) for value in values]
            spread = stdev(numbers) if len(numbers) > 1 else None
            found[name] = {"mean": mean(numbers), "spread": spread, "seeds": len(numbers), **earlier}
        return found

    def draw(self, pattern: str = "*") -> list[list[str]]:
        """The rows whose id matches, as text below a header; empty where none does."""
        rows = [row for row in self.rows if fnmatch(f"{self.id}/{row.name}", pattern)]
        seeds = any(len(row.cells) > 1 for row in rows)
        lines = [["", *self.columns, *(["seeds"] if seeds else [])]] if rows else []
        for row in rows:
            figures = self.figures(row)
            first = next(iter(figures.values())) or {"seeds": 0}
            label = (row.label or row.name) + (" †" if "earlier" in first else "")
            of = f" of {len(row.cells)}" if first["seeds"] < len(row.cells) else ""
            texts = [_text(figures[name], column.form) for name, column in self.columns.items()]
            lines.append([label, *texts, *([f"{first['seeds']}{of}"] if seeds else [])])
        return lines


def _text(value: dict[str, Any] | None, form: str) -> str:
    if value is None:
        return "–"
    return f"{value['mean']:{form}}" + (f" ± {value['spread']:{form}}" if value["spread"] else "")


class Drawable(Protocol):
    @property
    def title(self) -> str: ...

    @property
    def notes(self) -> Sequence[str]: ...

    def draw(self, pattern: str = "*") -> list[list[str]]: ...


def show(tables: Sequence[Table]) -> dict[str, Any]:
    """Draw on the terminal; the figures: "<data set>/<protocol>" → row → column, and the number of missing cells."""
    from rich import box
    from rich.console import Console
    from rich.table import Table as Drawing

    console = Console(stderr=True, width=140, no_color=True, highlight=False)
    figures: dict[str, Any] = {}
    for table in tables:
        header, *rows = table.draw()
        drawing = Drawing(*header, box=box.SIMPLE_HEAD, title=table.title, title_justify="left")
        for row in rows:
            drawing.add_row(*row)
        console.print(drawing, *table.notes, sep="\n", markup=False)
        figures.setdefault(table.id, {}).update({row.name: table.figures(row) for row in table.rows})
    missing = [cell.id for table in tables for row in table.rows for cell in table.store.missing(row.cells)]
    progress(f"{len(missing)} cells are missing" + (f", the first: {missing[0]}" if missing else ""))
    return {**figures, "missing": len(missing)}


def markdown(tables: Sequence[Drawable], pattern: str = "*") -> str:
    """The rows whose id, "<data set>/<protocol>/<name>", matches."""
    blocks = []
    for table in tables:
        if lines := table.draw(pattern):
            header, *rows = (f"| {' | '.join(line)} |" for line in lines)
            blocks += [f"**{table.title}**", "\n".join([header, "|---" * len(lines[0]) + "|", *rows]), *table.notes]
    text = "\n\n".join(blocks)
    return f"{text}\n\n{_EARLIER}" if "†" in text else text


def redraw(page: str, tables: Callable[[str], Sequence[Drawable]]) -> str:
    """A page with its marked places drawn anew; the rest stays. `tables` are those of a benchmark."""
    return _MARKED.sub(lambda m: f"{m[1]}\n{markdown(tables(m[2]), m[3])}\n\n{m[4]}", page)


def draw_pages(folder: Path = DOCS) -> list[Path]:
    """Draw all pages of a folder from the committed cells; those that changed."""
    changed = []
    for page in sorted(folder.rglob("*.md")):
        old = page.read_text()
        new = redraw(old, lambda name: import_module(name).tables())
        if new != old:
            page.write_text(new)
            changed.append(page)
    return changed


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seeds", type=int, default=3, help="seeds per student (default 3)")
    parser.add_argument("--only", default="*", metavar="PATTERN", help="cells to fill, such as 'ml-100k/*/sasrec*'")
    parser.add_argument("--table", action="store_true", help="only draw the table")
    parser.add_argument("--storage", metavar="ROOT", help="where work is kept (default: $RECSYS_STORAGE, else ./runs)")
