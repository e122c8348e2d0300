"""Add new items to a trained student, without training.

    python -m ray_jobs.add_items --config F --items new.csv                        # to serving.student
    python -m ray_jobs.add_items --config F --items new.tsv --model sasrec-distilled --name sasrec-spring

The file (CSV, TSV or Parquet) has the columns `id` and `title`. Each item gets the vector that its title projects to
(docs/new-items.md), so the item language model that read the other titles must be there. What comes of it is a
checkpoint of its own under `<storage>/<name>/students`: `<model>.2`, then `.3`, or what `--name` says. Nothing else of
the model changes, and the checkpoint it was made from stays. No Ray is started.
"""

import argparse

from ray_jobs import cli
from recsys import storage
from recsys.settings import Settings
from recsys.stages import new_items, promotion


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--items", metavar="FILE", required=True, help="ids and titles")
    parser.add_argument("--model", metavar="NAME", help="the student; default is serving.student")
    parser.add_argument("--name", metavar="NAME", help="of what comes of it")


def run(settings: Settings, args: argparse.Namespace) -> None:
    model = args.model or promotion.find_student(settings)
    new_items.make(settings, model, storage.absolute(args.items), args.name, force=args.force)


def main() -> None:
    cli.run_job(__doc__, run, add_arguments, ray=False)


if __name__ == "__main__":
    main()
