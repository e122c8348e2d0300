"""Let an alias name a student, so that what serves `@champion` serves it; or take that back.

    python -m ray_jobs.promote --config F                             # the best student that was evaluated
    python -m ray_jobs.promote --config F --student sasrec-distilled promotion.max_ms=5
    python -m ray_jobs.promote --config F --rollback                  # what was there before

`evaluate` registers students with their results in MLflow's model registry. A student is promoted if it is as good as
the one that has the alias plus `promotion.margin`, on the same dataset, and fast enough (`promotion`); otherwise one
line says why not, and the exit status is 1. Its checkpoint is kept under its hash, whatever is trained later. With
`serving.student: "@champion"` the next deployment serves it. No Ray is started.
"""

import argparse
import sys

from ray_jobs import cli
from recsys.names import require_name
from recsys.settings import Settings
from recsys.stages import promotion


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--student", metavar="NAME", help="default: the best of those that were evaluated")
    parser.add_argument("--alias", metavar="NAME", default=promotion.CHAMPION, help="default: champion")
    parser.add_argument("--rollback", action="store_true", help="let the alias name what it named before")


def run(settings: Settings, args: argparse.Namespace) -> None:
    alias = require_name(args.alias.removeprefix("@"), "the alias")
    if args.rollback:
        outcome = promotion.roll_back(settings, alias=alias)
    else:
        outcome = promotion.promote(settings, args.student, alias=alias)
    print(f"promote: {outcome.said}", flush=True)
    if not outcome.done:
        sys.exit(1)


def main() -> None:
    cli.run_job(__doc__, run, add_arguments, ray=False)


if __name__ == "__main__":
    main()
