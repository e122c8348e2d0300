"""The whole path on this machine, through a Ray of its own: what `make demo` and `make serve` run.

    python -m ray_jobs.demo                             MovieLens 100K, fetched
    python -m ray_jobs.demo --data fixture              a tiny data set, in about two minutes
    python -m ray_jobs.demo --data /data/ml-100k        your own copy of MovieLens 100K
    python -m ray_jobs.demo --serve                     serve what an earlier demo made, until Ctrl-C

It starts a local Ray (`ray_jobs.cluster.local_ray`), submits `python -m ray_jobs.pipeline` through Ray's job API,
streams its log, ends with its exit code, and leaves no process or temporary file behind. On a cluster the same job is
submitted by `ray job submit` (README). Killed at any moment and started again, it continues.
"""

import argparse
import sys
from pathlib import Path

from ray_jobs import cli
from ray_jobs.cluster.own_ray import run_alone
from ray_jobs.fallback import replace_language_model

PROJECT = Path(__file__).resolve().parents[1]
CONFIGS = PROJECT / "ray_jobs" / "configs"
FIXTURE = PROJECT / "tests" / "fixtures" / "ml-tiny"


def build_parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--data", metavar="PATH", help="folder of MovieLens 100K, or `fixture`")
    made.add_argument("--config", metavar="FILE", help="in place of the demo's own")
    made.add_argument("--storage", metavar="ROOT", help="absolute path or URI under which everything is kept")
    made.add_argument("--force", action="store_true", help="redo what is already there")
    made.add_argument("--serve", action="store_true", help="serve until Ctrl-C")
    made.add_argument("overrides", nargs="*", metavar="key=value")
    return made


def job_arguments(args: argparse.Namespace) -> list[str]:
    """The job's command line: every path absolute, because a job's own folder is not the user's."""
    fixture = args.data == "fixture"
    config = args.config or CONFIGS / ("fixture.yaml" if fixture else "demo.yaml")
    overrides = list(args.overrides)
    if fixture:
        overrides.append(f"data.path={FIXTURE}")
    elif args.data:
        overrides.append(f"data.path={Path(args.data).expanduser().resolve()}")
    settings = cli.load_settings(["--config", str(config), *(["--storage", args.storage] if args.storage else [])])
    return [
        *("--config", str(Path(config).resolve())),
        *("--storage", settings.layout.storage_root),
        *(["--force"] if args.force else []),
        *overrides,
    ]


def run(args: argparse.Namespace) -> int:
    """Run the demo; gives the exit code of the job."""
    cli.refuse_empty(args)
    arguments = job_arguments(args)
    # A wrong key or value is told before anything is started.
    settings = cli.load_settings(arguments)
    cli.check_storage(settings.layout.storage_root, writes=not args.serve)
    if args.serve:
        from ray_jobs.serving.application import check

        check(settings)
    else:
        arguments += replace_language_model(settings)
    return run_alone("serve" if args.serve else "pipeline", arguments, until_stopped=args.serve)


def main(arguments: list[str] | None = None) -> None:
    args = build_parser().parse_intermixed_args(arguments)
    sys.exit(cli.run_guarded(lambda: run(args)))


if __name__ == "__main__":
    main()
