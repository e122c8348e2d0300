"""Say what an experiment has shown so far: ship, do not ship, keep measuring, or invalid.

    python -m ray_jobs.experiment_report --config F
    python -m ray_jobs.experiment_report --config F --margin 0.02 experiment.treatment=student

Reads the log of a server that runs or ran with `serving.log=true`, and tells of each arm its users, answers,
click-through and latency, and whether the treatment is worse than the control by more than the margins allow
(`recsys.experiment.config`). It may be asked as often as one likes: its intervals hold at all looks together. Report,
page and picture go to `<storage>/<name>/results/experiment.{json,html,png}`. It starts no Ray.
"""

import argparse
from dataclasses import replace

from ray_jobs import cli
from recsys import storage
from recsys.config import copy_with
from recsys.settings import Settings
from recsys.stages import experiment


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--margin", type=float, metavar="SHARE", help="how much lower click-through may be (experiment.margin)"
    )


def run(settings: Settings, args: argparse.Namespace) -> None:
    if args.margin is not None:
        settings = replace(settings, experiment=copy_with(settings.experiment, margin=args.margin))
    experiment.print_report(experiment.report(settings))
    print(f"experiment: {storage.join(settings.layout.results, 'experiment.html')}", flush=True)


def main() -> None:
    cli.run_job(__doc__, run, add_arguments, ray=False)


if __name__ == "__main__":
    main()
