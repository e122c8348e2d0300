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
from ray_jobs.settings import Settings
from recsys import storage
from recsys.data.prepared import PreparedDataset
from recsys.errors import UserError
from recsys.signals.exchange import export_signals, import_signals
from recsys.signals.signals import TeacherSignals


def run(settings: Settings, *, folder: Path, importing: bool, force: bool = False) -> None:
    """Import or export.

    Raises:
        UserError: there are signals already, the files do not fit the dataset, or something is not there.
    """
    layout = settings.layout
    dataset = PreparedDataset.load(layout.dataset)
    if not importing:
        count = export_signals(TeacherSignals.load(layout.signals, dataset), dataset, folder)
        print(f"exchange: {count:,} training rows written to {folder}", flush=True)
        return
    if storage.read_manifest(layout.signals) is not None and not force:
        raise UserError(f"there are signals in {layout.signals} already; --force replaces them")
    meta = import_signals(folder, dataset, layout.signals)
    print(f"exchange: {meta.rows['train']:,} training rows, top {meta.k} each; {layout.signals}", flush=True)


def main() -> None:
    def arguments(parser: argparse.ArgumentParser) -> None:
        which = parser.add_mutually_exclusive_group(required=True)
        which.add_argument("--import", metavar="FOLDER", dest="source", type=Path, help="make signals from its files")
        which.add_argument("--export", metavar="FOLDER", dest="target", type=Path, help="write the signals there")

    def body(settings: Settings, args: argparse.Namespace) -> None:
        run(settings, folder=args.source or args.target, importing=args.source is not None, force=args.force)

    cli.run_job(__doc__, body, arguments, ray=False, writes=False)


if __name__ == "__main__":
    main()
