"""Everything in order: data, teacher, its signals, students, the quality ladder, the served A/B, the report.

    python -m ray_jobs.pipeline --config ray_jobs/configs/demo.yaml
    python -m ray_jobs.pipeline --config ray_jobs/configs/demo.yaml --from distill       # leave the steps before out
    python -m ray_jobs.pipeline --config ray_jobs/configs/demo.yaml --only evaluate
    ray job submit --working-dir . -- python -m ray_jobs.pipeline --config ray_jobs/configs/demo.yaml \\
        --storage /shared/runs

Every step is the module of that name and may be run alone. What is finished and unchanged, by the digest of its
configuration and inputs, is kept; where all is, no Ray is started. `--force` redoes. Killed at any moment and started
again, it continues. The steps' MLflow runs are children of one run.
"""

import argparse

from ray_jobs import cli
from ray_jobs.on_ray import OnRay
from recsys.settings import Settings
from recsys.stages import pipeline
from recsys.stages.executor import Executor


def _measure_ab(settings: Settings, executor: Executor, force: bool) -> None:  # noqa: ARG001
    from ray_jobs.serving import measurement

    measurement.run(settings, force=force)


# The served A/B is measured by Ray Serve alone, and the report shows it.
*_BEFORE, _LAST = pipeline.STEPS.items()
STEPS = dict([*_BEFORE, ("measure_ab", _measure_ab), _LAST])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--only", choices=STEPS, help="this step alone")
    which.add_argument("--from", choices=STEPS, dest="first", help="this step and those after it")


def run(settings: Settings, args: argparse.Namespace) -> None:
    names = list(STEPS)
    chosen = [args.only] if args.only else names[names.index(args.first) :] if args.first else names
    pipeline.run(settings, OnRay(), {name: STEPS[name] for name in chosen}, force=args.force)


def main() -> None:
    cli.run_job(__doc__, run, add_arguments)


if __name__ == "__main__":
    main()
