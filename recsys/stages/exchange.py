"""Teacher knowledge from and to the files of the DLLM2Rec code (`recsys.signals.exchange`)."""

from pathlib import Path

from recsys import locks, storage
from recsys.data.prepared import PreparedDataset
from recsys.errors import UserError
from recsys.settings import Settings
from recsys.signals.exchange import export_signals, import_signals
from recsys.signals.signals import TeacherSignals


def make(settings: Settings, *, folder: Path, importing: bool, force: bool = False) -> None:
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
    with locks.hold(layout.signals, f"signals {layout.signals}"):
        if storage.read_manifest(layout.signals) is not None and not force:
            raise UserError(f"there are signals in {layout.signals} already; --force replaces them")
        meta = import_signals(folder, dataset, layout.signals)
    print(f"exchange: {meta.rows['train']:,} training rows, top {meta.k} each; {layout.signals}", flush=True)
