"""Export a model for other programs: its vectors as Parquet, and all of it as one file that PyTorch alone runs.

    python -m ray_jobs.export --config F                                     # serving.student
    python -m ray_jobs.export --config F --model teacher --queries

Writes `items.parquet` (item_id, title, vector), `model.pt2` (docs/export.md) and, with `--queries`, `queries.parquet`
(user, vector) of every user of the dataset into `<storage>/<name>/exports/<model>`. The dot product of a user's vector
and an item's is the score. The exported model is loaded again and compared with the checkpoint; one that scores
otherwise is not kept. No Ray is started.
"""

import argparse

from ray_jobs import cli
from recsys.settings import Settings
from recsys.stages import export, promotion


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", metavar="NAME", help="a student or teacher; default is serving.student")
    parser.add_argument("--queries", action="store_true", help="the vectors of the dataset's users as well")
    parser.add_argument("--vectors-only", action="store_true", help="without model.pt2")


def run(settings: Settings, args: argparse.Namespace) -> None:
    name = args.model or promotion.find_student(settings)
    export.make(settings, name, queries=args.queries, model=not args.vectors_only, force=args.force)


def main() -> None:
    cli.run_job(__doc__, run, add_arguments, ray=False)


if __name__ == "__main__":
    main()
