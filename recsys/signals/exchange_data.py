"""A dataset with its teacher signals, in the layout in which the DLLM2Rec code (arXiv 2405.00338) runs:

    data/NAME/data_statis.df   seq_size (10), item_num (N)
    data/NAME/train_data.df    seq, len_seq, next; row r is line r of the files below
    data/NAME/val_data.csv     the same columns, a row each
    data/NAME/test_data.csv
    tocf/NAME/                 the files of `recsys.signals.exchange`

`seq` are the latest items before `next`, at most 10, oldest first, padded with N at the end; `len_seq` is how many they
are. Items count from 0. That code holds three numbers fast, and what is written fits them: histories of 10 (longer ones
are cut, whatever `data.max_history` is), embeddings of 4,096 dimensions (narrower ones are filled up with zeros, which
its linear layer ignores), and the top K of `--candidate_topk`, 10 by default.

Frames (`.df`) are pickled by pandas, as it reads them; nothing pickled is ever read here.

Legend: N items, S training rows, D width.
"""

import csv
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recsys.data.prepared import PreparedDataset
from recsys.data.splits import Split
from recsys.errors import UserError
from recsys.folders import replace_folder
from recsys.signals.exchange import EMBEDDINGS, export_signals, rows_in_order
from recsys.signals.signals import TeacherSignals

HISTORY, WIDTH, CANDIDATES = 10, 4096, 10  # as main.py has them, the last by default
FILES: dict[str, Split] = {"val_data.csv": "valid", "test_data.csv": "test"}


def export_project(signals: TeacherSignals, dataset: PreparedDataset, folder: Path, name: str) -> int:
    """Write `data/NAME` and `tocf/NAME` into `folder`, a checkout of the code for instance, each whole or not at all.

    Returns:
        The number of training rows.

    Raises:
        UserError: what `export_signals` refuses, embeddings are wider than the code reads, or a folder of that name is
            there.
    """
    width = signals.item_embeddings.shape[1]
    if width > WIDTH:
        raise UserError(f"item embeddings have {width} dimensions, but the DLLM2Rec code reads {WIDTH}")
    targets = {part: folder / part / name for part in ("data", "tocf")}
    if there := next((target for target in targets.values() if target.exists()), None):
        raise UserError(f"{there} is there already; remove it, or name another folder")
    scratch = {}
    try:
        for part, target in targets.items():
            target.parent.mkdir(parents=True, exist_ok=True)
            scratch[part] = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=target.parent))
            scratch[part].chmod(0o755)
        count = export_signals(signals, dataset, scratch["tocf"])
        padded = torch.nn.functional.pad(signals.item_embeddings[1:].float(), (0, WIDTH - width))
        torch.save(padded, scratch["tocf"] / EMBEDDINGS)
        export_rows(dataset, scratch["data"])
        for part, target in targets.items():
            replace_folder(scratch[part], target)
    finally:
        for left in scratch.values():
            shutil.rmtree(left, ignore_errors=True)
    return count


def export_rows(dataset: PreparedDataset, folder: Path) -> None:
    """Write the four files of `data/NAME`.

    The rows of every split are in the order of `rows_in_order`.
    """
    _pickle(folder / "data_statis.df", {"seq_size": [HISTORY], "item_num": [dataset.num_items]})
    seq, lengths, following = _columns(dataset, rows_in_order(dataset, "train"))
    _pickle(folder / "train_data.df", {"seq": seq, "len_seq": lengths, "next": following})
    for file, split in FILES.items():
        rows = rows_in_order(dataset, split)
        with (folder / file).open("w", newline="", encoding="ascii") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(["seq", "len_seq", "next"])
            writer.writerows(zip(*_columns(dataset, rows), strict=True))


def _columns(dataset: PreparedDataset, rows: np.ndarray) -> tuple[list[list[int]], list[int], list[int]]:
    """`seq`, `len_seq` and `next` of some rows."""
    limit = min(HISTORY, dataset.max_history)
    items, lengths = dataset.histories(rows, limit)
    padded = np.full((len(rows), HISTORY), dataset.num_items)
    padded[:, :limit] = np.where(items > 0, items - 1, dataset.num_items)
    return padded.tolist(), lengths.tolist(), (dataset.targets(rows) - 1).tolist()


def _pickle(path: Path, columns: Mapping[str, Any]) -> None:
    """Names of columns as plain objects: pandas before 3 knows no others."""
    import pandas as pd

    frame = pd.DataFrame({number: pd.Series(values) for number, values in enumerate(columns.values())})
    frame.columns = pd.Index(list(columns), dtype=object)
    frame.to_pickle(path, protocol=4)
