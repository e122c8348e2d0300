"""What every benchmark's command line has in common.

    python benchmarks/<name>.py [--quick] [--minutes N] [--data-dir D]

A benchmark is one file beside this one that ends with `main(__doc__, body)`. `body(options)` measures both sides in
one run, tells its progress by `progress(...)`, and returns the figures, which are printed as one JSON object on the
last line. `python benchmarks` runs them all and keeps the figures (`benchmarks/__main__.py`).
"""

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from recsys.data.config import DataConfig
from recsys.data.download import locate
from recsys.errors import UserError

ROOT = Path(__file__).resolve().parent
FIXTURE = ROOT.parent / "tests" / "fixtures" / "ml-tiny"


@dataclass(frozen=True)
class Options:
    """What the command line asked for.

    Attributes:
        quick: prove in at most 15 s, on the tiny fixture, that the benchmark works; its figures mean nothing.
        minutes: time limit.
        data_dir: folder with one folder per data set (`ml-100k`, `amazon-beauty-2014-5core`, …), if there is one.
        args: everything, for arguments of one benchmark's own.
    """

    quick: bool
    minutes: float
    data_dir: Path | None
    args: argparse.Namespace
    started: float = field(default_factory=time.monotonic)

    @property
    def seconds_left(self) -> float:
        return 60 * self.minutes - (time.monotonic() - self.started)

    def dataset(self, key: str) -> Path:
        """The folder of the data set `key`.

        Raises:
            UserError: no data folder was named, or it has no such data set.
        """
        if self.data_dir is None:
            raise UserError(f"data set {key} is needed; give its folder with --data-dir or RECSYS_DATA")
        if not (self.data_dir / key).is_dir():
            raise UserError(f"{self.data_dir} has no data set {key}; name another folder by --data-dir or RECSYS_DATA")
        return self.data_dir / key

    def movielens(self, **quick: Any) -> DataConfig:
        """MovieLens 100K from --data-dir, or fetched; for --quick the fixture, with these settings."""
        if self.quick:
            return DataConfig(path=str(FIXTURE), **quick)
        return DataConfig(path=str(self.dataset("ml-100k"))) if self.data_dir else locate(DataConfig())


def main(
    doc: str | None,
    body: Callable[[Options], dict[str, Any]],
    *,
    minutes: float = 10,
    arguments: Callable[[argparse.ArgumentParser], Any] | None = None,
) -> None:
    """Parse the command line, measure, print the figures as the last line; a `UserError` is one line and status 2."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="at most 15 s on the tiny fixture; proves it works")
    parser.add_argument("--minutes", type=float, default=minutes, help=f"time limit (default {minutes:g})")
    parser.add_argument("--data-dir", type=Path, help="folder of data sets (default: environment variable RECSYS_DATA)")
    if arguments:
        arguments(parser)
    args = parser.parse_args()
    if args.minutes <= 0:
        parser.error(f"--minutes must be more than 0 (got {args.minutes:g})")
    data_dir = args.data_dir or (Path(os.environ["RECSYS_DATA"]) if os.environ.get("RECSYS_DATA") else None)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_LOG_TO_DRIVER", "0")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        figures = body(Options(quick=args.quick, minutes=args.minutes, data_dir=data_dir, args=args))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted; of this run only finished cells are kept", file=sys.stderr)
        sys.exit(130)
    print(json.dumps(figures), flush=True)


def add_project_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--storage", metavar="ROOT", help="as of the jobs (default: $RECSYS_STORAGE, else ./runs)")
    parser.add_argument("--name", default="demo", metavar="PROJECT", help="of the project (default: demo)")


def progress(text: str) -> None:
    """One line on the standard error output, so that the last line of the standard output stays the figures."""
    print(text, file=sys.stderr, flush=True)


def scratch() -> tempfile.TemporaryDirectory[str]:
    """A folder of the benchmark's own that vanishes with it: `with scratch() as folder`."""
    return tempfile.TemporaryDirectory(prefix="recsys-benchmark-")


class PeakMemory:
    """Peak memory of this process and its children, sampled: `with PeakMemory() as memory: …; memory.gb`.

    Counts proportional set size (shared pages once), every `interval` seconds; short peaks between samples escape.
    Reads `/proc`, so Linux only; elsewhere `gb` is NaN. Processes of a Ray that was started elsewhere are not children.
    """

    def __init__(self, interval: float = 0.25) -> None:
        self._interval = interval
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.gb = float("nan")

    def __enter__(self) -> "PeakMemory":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            kilobytes = sum(_proportional_kilobytes(pid) for pid in _tree(os.getpid()))
            if kilobytes:
                self.gb = kilobytes / 1e6 if self.gb != self.gb else max(self.gb, kilobytes / 1e6)
            if self._stop.wait(self._interval):
                return


def _tree(root: int) -> list[int]:
    """`root` and its descendants."""
    tree = [root]
    for pid in tree:
        try:
            for task in Path(f"/proc/{pid}/task").iterdir():
                tree += [int(child) for child in (task / "children").read_text().split()]
        except OSError:  # it ended meanwhile, or there is no /proc
            continue
    return tree


def _proportional_kilobytes(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1])
    except OSError:
        pass
    return 0
