"""Search a student's settings: loss weights, depth, learning rate and whatever else its section holds, on Ray Tune.

    python -m ray_jobs.tune --config ray_jobs/configs/demo.yaml --space dllm2rec-weights
    python -m ray_jobs.tune --config ray_jobs/configs/demo.yaml --space dllm2rec-weights --resume
    ray job submit --working-dir . -- python -m ray_jobs.tune --config ray_jobs/configs/demo.yaml \\
        --space my-space.yaml --storage /shared/runs

A space is a YAML file (`recsys.tuning.config.SweepConfig`), or the name of one in ray_jobs/configs/spaces. Everything
of a sweep lies in `<storage>/<name>/sweeps/<space>-<student>`: a record of each trial, `sweep.html` with its pictures,
and `winner.yaml`, which `ray_jobs.distill` takes as it is. A sweep that was killed continues with --resume: trials that
ended are not repeated, interrupted ones start again, and the search has learned from both. Selection is by validation
alone; test rows are ranked once, for the winner, when it has been retrained with as many seeds as --retrain says.
"""

import argparse

from ray_jobs import cli
from ray_jobs.sweeps import search
from recsys.settings import Settings

_CHANGES = ("student", "trials", "minutes", "concurrent", "retrain", "retrain_epochs")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--space", metavar="NAME|FILE", default="dllm2rec-weights", help="what is searched")
    parser.add_argument("--resume", action="store_true", help="continue a sweep that was interrupted")
    parser.add_argument("--student", metavar="NAME", help="instead of the space's")
    parser.add_argument("--trials", metavar="N", help="how many configurations are tried")
    parser.add_argument("--minutes", metavar="M", help="no trial starts after them, running ones are stopped")
    parser.add_argument("--concurrent", metavar="N", help="trials at a time")
    parser.add_argument("--retrain", metavar="SEEDS", help="train the winner again with this many seeds, and test it")
    parser.add_argument("--retrain-epochs", metavar="E", help="for at most this many epochs (default: the student's)")


def run(settings: Settings, args: argparse.Namespace) -> None:
    changes = {name: getattr(args, name) for name in _CHANGES}
    name, config = search.load_space(args.space, **changes)
    search.run(settings, name, config, resume=args.resume, force=args.force)


def main() -> None:
    cli.run_job(__doc__, run, add_arguments)


if __name__ == "__main__":
    main()
