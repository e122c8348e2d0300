"""Recommend for every user at once, into Parquet files.

    python -m ray_jobs.recommend_all --config ray_jobs/configs/demo.yaml                      # the dataset's users
    python -m ray_jobs.recommend_all --config F --model teacher --k 50
    python -m ray_jobs.recommend_all --config F --users users.parquet                         # or others
    ray job submit --working-dir . -- python -m ray_jobs.recommend_all --config F storage=/shared/runs \\
        recommendations.actors=8

The table lies at `<storage>/<name>/recommendations/<model>`: user, items (ids, best first), scores, whether the items
are popular ones because nothing of the history was known (fallback), and the checkpoint's hash. A user of the dataset
is recommended what follows everything that they met. `--users` names a CSV, TSV or Parquet file with the columns `user`
and `history`, a list of ids or text with blanks between them, oldest first; its table is `<model>-for-<file>`.

A Ray Data pipeline carries shard numbers to a pool of actors; each loads users and model once, recommends for the users
of a shard, a batch in one pass, and writes the shard itself. A killed run started again does only the shards that are
missing; with another checkpoint, other users, `recommendations.k` or `mask_seen` all are done anew.
"""

import argparse
from dataclasses import replace

from ray_jobs import cli
from ray_jobs.on_ray import OnRay
from recsys import storage
from recsys.config import copy_with
from recsys.settings import Settings
from recsys.stages import promotion, recommendations


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", metavar="NAME", help="a student, teacher, or rules; default is serving.student")
    parser.add_argument("--users", metavar="FILE", help="recommend for the users of this file")
    parser.add_argument("--k", type=int, help="items for each user (recommendations.k)")


def run(settings: Settings, args: argparse.Namespace) -> None:
    if args.k is not None:
        settings = replace(settings, recommendations=copy_with(settings.recommendations, k=args.k))
    recommendations.make(
        settings,
        OnRay(),
        args.model or promotion.find_student(settings),
        storage.absolute(args.users) if args.users else None,
        force=args.force,
    )


def main() -> None:
    cli.run_job(__doc__, run, add_arguments)


if __name__ == "__main__":
    main()
