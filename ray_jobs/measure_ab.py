"""Measure the arms against each other: replay real test histories over HTTP and compare latencies.

    python -m ray_jobs.measure_ab --config F                            deploys the application, takes it down again
    python -m ray_jobs.measure_ab --config F --address http://host:8000 measures one that runs
    ray job submit --working-dir . -- python -m ray_jobs.measure_ab --config F serving.measure_concurrency=16
    python -m ray_jobs.measure_ab --config F --rates 50 100 200 --concurrency 1 4 16
                                                                the arms under load as well

Every history goes to every arm over kept-alive connections; the arms take short turns in random order, so that drift
of the machine hits all alike. End-to-end time is what this client sees, connection, proxy and JSON included; model
time is what the replica measured around the model alone. The null arm costs what HTTP costs: student − null is what
the student itself costs. Where a server answers at the configured address already, that one is measured.

Under load, `--rates` are open loops (Poisson arrivals; latency counts from when a request was due, so that a server
that stalls cannot hide it) and `--concurrency` closed ones; all arms get the same requests. Told are percentiles with
intervals, requests that were refused or given up, how late the client processes were themselves, and the highest load
that keeps `serving.measure_p99_ms`.

The figures go to `<storage>/<name>/results/ab.json`, a page of them to `ab_report.html` beside it. Ray runs its workers
at a low priority (niceness 15): on a busy machine all latencies grow, so measure on an idle one.
"""

import argparse
from dataclasses import replace

from ray_jobs import cli
from recsys.config import copy_with
from recsys.settings import Settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--address", metavar="URL", help="measure the server that runs there")
    parser.add_argument(
        "--rates", type=float, nargs="+", metavar="RATE", help="requests a second (serving.measure_rates)"
    )
    parser.add_argument(
        "--concurrency", type=int, nargs="+", metavar="N", help="connections (serving.measure_connections)"
    )


def run(settings: Settings, args: argparse.Namespace) -> None:
    from ray_jobs.serving import measurement

    given = {"measure_rates": args.rates, "measure_connections": args.concurrency}
    asked = {name: value for name, value in given.items() if value is not None}
    if asked:
        settings = replace(settings, serving=copy_with(settings.serving, **asked))
    measurement.run(settings, force=args.force, address=args.address)


def main() -> None:
    cli.run_job(__doc__, run, add_arguments)


if __name__ == "__main__":
    main()
