"""Measure the arms against each other: replay real test histories over HTTP and compare latencies.

    python -m ray_jobs.measure_ab --config F                            deploys the application, takes it down again
    python -m ray_jobs.measure_ab --config F --address http://host:8000 measures one that runs
    ray job submit --working-dir . -- python -m ray_jobs.measure_ab --config F serving.measure_concurrency=16

Every history goes to every arm over kept-alive connections; the arms take short turns in random order, so that drift
of the machine hits all alike. End-to-end time is what this client sees, connection, proxy and JSON included; model
time is what the replica measured around the model alone. The null arm costs what HTTP costs: student − null is what
the student itself costs. Where a server answers at the configured address already, that one is measured.

The figures go to `<storage>/<name>/results/ab.json`. Ray runs its workers at a low priority (niceness 15): on a busy
machine all latencies grow, so measure on an idle one.
"""

import argparse

from ray_jobs import cli
from recsys.settings import Settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--address", metavar="URL", help="measure the server that runs there")


def run(settings: Settings, args: argparse.Namespace) -> None:
    from ray_jobs.serving import measurement

    measurement.run(settings, force=args.force, address=args.address)


def main() -> None:
    cli.run_job(__doc__, run, add_arguments)


if __name__ == "__main__":
    main()
