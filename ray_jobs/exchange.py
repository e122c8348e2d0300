"""Teacher knowledge in and out, in the files of the DLLM2Rec code.

    python -m ray_jobs.exchange --config ray_jobs/configs/demo.yaml --import FOLDER   # rankings of another LLM
    python -m ray_jobs.distill --config ray_jobs/configs/demo.yaml                    # … teach our students
    python -m ray_jobs.exchange --config ray_jobs/configs/demo.yaml --export FOLDER   # ours, in these files
    python -m ray_jobs.exchange --config ray_jobs/configs/demo.yaml --export-project CHECKOUT   # … teach theirs

FOLDER holds `all_embeddings.pt`, `myrank_train.txt` and `confidence_train.txt`; which line is which row and which
number which item says `recsys.signals.exchange`. An import takes the place of the project's signals; students are then
trained by `distill` (the pipeline's own teacher pass would replace them: give it `--from distill`). CHECKOUT is one of
that code: dataset and signals go to `data/NAME` and `tocf/NAME` as it reads them (`recsys.signals.exchange_data`).
No Ray is started.
"""

import argparse
from pathlib import Path

from ray_jobs import cli
from recsys.settings import Settings
from recsys.stages import exchange


def add_arguments(parser: argparse.ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--import", metavar="FOLDER", dest="source", type=Path, help="make signals from its files")
    which.add_argument("--export", metavar="FOLDER", type=Path, help="write the signals there")
    which.add_argument("--export-project", metavar="CHECKOUT", type=Path, help="write dataset and signals there")


def run(settings: Settings, args: argparse.Namespace) -> None:
    asked: dict[exchange.Action, Path | None] = {
        "import": args.source,
        "export": args.export,
        "export-project": args.export_project,
    }
    for action, folder in asked.items():
        if folder is not None:
            exchange.make(settings, folder=folder, action=action, force=args.force)


def main() -> None:
    cli.run_job(__doc__, run, add_arguments, ray=False, writes=False)


if __name__ == "__main__":
    main()
