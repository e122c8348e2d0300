"""Teacher knowledge from and to the files of the DLLM2Rec code (`recsys.signals.exchange`)."""

from pathlib import Path
from typing import Literal

from recsys import locks, storage
from recsys.data.prepared import PreparedDataset
from recsys.errors import UserError
from recsys.settings import Settings
from recsys.signals.exchange import export_signals, import_signals
from recsys.signals.exchange_data import CANDIDATES, HISTORY, export_project
from recsys.signals.signals import TeacherSignals

Action = Literal["import", "export", "export-project"]


def make(settings: Settings, *, folder: Path, action: Action, force: bool = False) -> None:
    """Import signals, export them, or export them with the dataset.

    Raises:
        UserError: there are signals already, the files do not fit the dataset, or something is not there.
    """
    layout = settings.layout
    dataset = PreparedDataset.load(layout.dataset)
    if action == "export":
        count = export_signals(TeacherSignals.load(layout.signals, dataset), dataset, folder)
        print(f"exchange: {count:,} training rows written to {folder}", flush=True)
        return
    if action == "export-project":
        signals = TeacherSignals.load(layout.signals, dataset)
        count = export_project(signals, dataset, folder, settings.name)
        few = f" --candidate_topk {signals.meta.k}" if signals.meta.k < CANDIDATES else ""
        print(f"exchange: {count:,} training rows written to data/{settings.name} and tocf/{settings.name} of {folder}")
        if dataset.max_history > HISTORY:
            cut = f"histories are cut to the {HISTORY} items that this code takes; the teacher saw up to"
            print(f"exchange: {cut} {dataset.max_history}")
        print(f"exchange: python main.py --data {settings.name} --model_name SASRec{few}", flush=True)
        return
    with locks.hold(layout.signals, f"signals {layout.signals}"):
        if storage.read_manifest(layout.signals) is not None and not force:
            raise UserError(f"there are signals in {layout.signals} already; --force replaces them")
        meta = import_signals(folder, dataset, layout.signals)
    print(f"exchange: {meta.rows['train']:,} training rows, top {meta.k} each; {layout.signals}", flush=True)
