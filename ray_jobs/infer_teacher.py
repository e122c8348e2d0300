"""Let the teacher rank the catalogue for every row, once: the signals that all students learn from.

    python -m ray_jobs.infer_teacher --config ray_jobs/configs/demo.yaml
    ray job submit --working-dir . -- python -m ray_jobs.infer_teacher --config ray_jobs/configs/demo.yaml \\
        signals.actors=8 signals.gpus=1
    python -m ray_jobs.infer_teacher --config ray_jobs/configs/demo.yaml --estimate     # what it will cost

A Ray Data pipeline carries shard numbers to a pool of actors. Each actor loads the dataset and the teacher once,
behind a DeepSpeed inference engine, ranks the rows of a shard and writes the shard itself; only counts travel back.
Teachers that score by dot products rank by causal passes over windows of the sequences (`recsys.inference.ranking`),
BIGRec by writing titles (`recsys.teachers.bigrec`). Nothing but the storage root is shared, so actors may live on any
node.

A killed pass started again does only what is missing. A change of the teacher, of the dataset or of what the rankings
depend on (`signals.k`, `splits`, `train_rows`, `choose_rows` and what it asks, `mask_history`, `rows_per_shard`,
`dtype`) starts afresh; actors and batch size may change from run to run. Time is in proportion to interactions · N
(scoring); memory per actor is that of the teacher and its item vectors, and grows with `signals.batch_size` and K,
whatever the number of rows.
"""

import argparse

from ray_jobs import cli
from ray_jobs.on_ray import OnRay
from recsys.settings import Settings
from recsys.stages import signals


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--estimate", action="store_true", help="time a sample, say what the pass will cost, and end")


def run(settings: Settings, args: argparse.Namespace) -> None:
    if args.estimate:
        signals.estimate(settings, OnRay())
    else:
        signals.make(settings, OnRay(), force=args.force)


def main() -> None:
    cli.run_job(__doc__, run, add_arguments)


if __name__ == "__main__":
    main()
