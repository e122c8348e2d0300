"""Teacher knowledge in and out, in the files of the DLLM2Rec code.

    python -m ray_jobs.exchange --config ray_jobs/configs/demo.yaml --import FOLDER   # rankings of another LLM
    python -m ray_jobs.distill --config ray_jobs/configs/demo.yaml                    # … teach our students
    python -m ray_jobs.exchange --config ray_jobs/configs/demo.yaml --export FOLDER   # ours teach theirs

FOLDER holds `all_embeddings.pt`, `myrank_train.txt` and `confidence_train.txt`; which line is which row and which
number which item says `recsys.signals.exchange`. An import takes the place of the project's signals; students are then
trained by `distill` (the pipeline's own teacher pass would replace them: give it `--from distill`). No Ray is started.
"""

import argparse
from pathlib import Path

from ray_jobs import cli
from recsys.settings import Settings
from recsys.stages import exchange


def add_arguments(parser: argparse.ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--import", metavar="FOLDER", dest="source", type=Path, help="make signals from its files")
    which.add_argument("--export", metavar="FOLDER", dest="target", type=Path, help="write the signals there")


def run(settings: Settings, args: argparse.Namespace) -> None:
    importing = args.source is not None
    exchange.make(settings, folder=args.source or args.target, importing=importing, force=args.force)


def main() -> None:
    cli.run_job(__doc__, run, add_arguments, ray=False, writes=False)


if __name__ == "__main__":
    main()
