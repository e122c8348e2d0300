"""Run benchmarks and keep their figures: `python benchmarks [NAME …] [--quick] [--minutes N] [--data-dir D]`.

Without a name all are run. Figures go to `benchmarks/results/<name>.json` together with versions and hardware; those
of a `--quick` run mean nothing and are only printed. The exit status is 1 when a benchmark failed.
`python benchmarks --tables` runs none: it draws the tables in docs/ from stored cells (`benchmarks/cells.py`), and the
picture of `benchmarks/scale.py`.
"""

import argparse
import json
import subprocess
import sys
import time

from cells import draw_pages
from harness import ROOT
from scale import write_picture

from recsys import environment

PARTS = ("__main__", "cells", "harness", "rectools_sasrec", "scaling", "speed")
NAMES = sorted(path.stem for path in ROOT.glob("*.py") if path.stem not in PARTS)


def run(name: str, passed_on: list[str], data_dir: str | None) -> dict[str, object] | None:
    """Run one benchmark, its output streamed; its figures, or None where it failed."""
    started = time.monotonic()
    command = [sys.executable, str(ROOT / f"{name}.py"), *passed_on, *(["--data-dir", data_dir] if data_dir else [])]
    print(f"== {name}", flush=True)
    last = ""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            last = line.strip() or last
    seconds = time.monotonic() - started
    if process.returncode:
        print(f"== {name} failed with status {process.returncode} after {seconds:.0f} s", flush=True)
        return None
    print(f"== {name} took {seconds:.0f} s", flush=True)
    figures: dict[str, object] = json.loads(last)
    return {
        **figures,
        "conditions": {
            "arguments": passed_on,
            "seconds": round(seconds, 1),
            **environment.conditions(),
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--minutes", type=float, help="time limit of each (default: its own)")
    parser.add_argument("--data-dir", help="folder of data sets (default: environment variable RECSYS_DATA)")
    parser.add_argument("--tables", action="store_true", help="only draw tables and picture in docs/")
    args = parser.parse_args()
    if args.tables:
        for drawn in [*draw_pages(), *write_picture()]:
            print(f"drawn: {drawn}")
        return
    unknown = sorted(set(args.names) - set(NAMES))
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(NAMES)}")
    passed_on = ["--quick"] if args.quick else []
    passed_on += ["--minutes", f"{args.minutes:g}"] if args.minutes else []
    failed = []
    for name in args.names or NAMES:
        figures = run(name, passed_on, args.data_dir)
        if figures is None:
            failed.append(name)
        elif not args.quick:
            (ROOT / "results").mkdir(exist_ok=True)
            (ROOT / "results" / f"{name}.json").write_text(json.dumps(figures, indent=2) + "\n")
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
