"""The report of a running or finished experiment, from the log of events: `results/experiment.json` and a page."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from recsys import storage
from recsys.errors import UserError
from recsys.experiment.analysis import analyse
from recsys.experiment.page import NAMES, write_page
from recsys.serving.events import read_events
from recsys.serving.experiment import read_state
from recsys.settings import Settings


def analyse_log(settings: Settings) -> dict[str, Any]:
    """What the log says of the experiment so far (`recsys.experiment.analysis.analyse`).

    It is read anew each time: a log grows, and looking often costs nothing.

    Raises:
        UserError: there is no log, it holds nobody of one of the arms, or the state of the experiment is damaged.
    """
    layout = settings.layout
    if "://" in layout.events or not Path(layout.events).is_dir():
        raise UserError(f"there is no log of events at {layout.events}; serve with serving.log=true first")
    # What was changed while it ran counts, not what the settings say.
    state = read_state(layout.experiment) if storage.exists(layout.experiment) else settings.serving.experiment
    return analyse(read_events(layout.events), settings.experiment, state.split, state.version)


def report(settings: Settings) -> dict[str, Any]:
    """Write report, page and picture under `results/`, and return the report.

    Raises:
        UserError: see `analyse_log`.
    """
    layout, found = settings.layout, analyse_log(settings)
    with TemporaryDirectory() as folder:
        write_page(Path(folder, "experiment.html"), found, settings.name)
        for path in sorted(Path(folder).iterdir()):
            storage.write_bytes(storage.join(layout.results, path.name), path.read_bytes())
    storage.write_json(storage.join(layout.results, "experiment.json"), found)
    return found


def print_report(found: dict[str, Any]) -> None:
    """The arms, their differences, and the verdict."""
    print(f"{'':12}{'users':>8}{'answers':>9}" + "".join(f"{name:>26}" for name in NAMES))
    for arm, row in found["arms"].items():
        print(f"{arm:12}{row['users']:8d}{row['answers']:9d}" + "".join(f"{_share(row[name]):>26}" for name in NAMES))
    differences = found["differences"]
    print(f"{'difference':12}{'':17}" + "".join(f"{_share(differences[name]):>26}" for name in NAMES))
    if (times := differences["milliseconds"]) is not None:
        print(
            f"milliseconds, {found['config']['treatment']} − {found['config']['control']}: "
            + ", ".join(f"{p} {t['value']:+.2f} ({t['low']:+.2f} to {t['high']:+.2f})" for p, t in times.items())
        )
    print(
        f"users by the split: p = {found['p']:.3g}; {found['left_out']} requests left out, {found['moved']} users moved"
    )
    print(f"{found['verdict']}: {found['reason']}", flush=True)


def _share(row: dict[str, Any]) -> str:
    if row["low"] is None:
        return f"{100 * row['value']:.2f} %"
    return f"{100 * row['value']:.2f} % ({100 * row['low']:.2f} to {100 * row['high']:.2f})"
