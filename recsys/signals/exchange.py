"""Teacher knowledge in the files of the DLLM2Rec code (arXiv 2405.00338), in and out; a dataset beside it, out
(`recsys.signals.exchange_data`).

A ranking made by any other LLM recommender can teach our students, and ours can feed theirs:

- `all_embeddings.pt`: a tensor [N, D], the teacher's embedding of every item;
- `myrank_train.txt`: one line per training row, the K best items, best first;
- `confidence_train.txt`: one line per training row, for each of these K items its distance to the teacher's prediction,
  smaller is surer.

Items count from 0 in these files: item j is our item j+1, in the order of `items.parquet`. Line r belongs to the r-th
training row of the dataset: by time of the target in a `global_time` split, as that code sorts its rows, otherwise by
user and position. Both orders can be said explicitly by two files that the export writes and the import obeys where
they are there: `items.txt` (a catalogue id a line) and `rows.txt` (user id, tab, position of the target in the user's
sequence from 0).

The distance of a whole row, which the paper's confidence weight needs, is that of the true item: it is known where the
true item is among the K, and missing (NaN, weight 0) elsewhere.

Legend: S training rows, K candidates, N items, D width.
"""

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from safetensors.torch import save_file

from recsys import storage
from recsys.data.ids import normal_id
from recsys.data.prepared import PreparedDataset
from recsys.data.splits import Split
from recsys.errors import UserError
from recsys.signals.signals import SignalsMeta, TeacherSignals, rankings_table

EMBEDDINGS, RANKING, CONFIDENCE = "all_embeddings.pt", "myrank_train.txt", "confidence_train.txt"
ITEMS, ROWS = "items.txt", "rows.txt"


def export_signals(signals: TeacherSignals, dataset: PreparedDataset, folder: Path) -> int:
    """Write the training rows that have signals.

    Logits become distances by subtracting them from the best one of their row.

    Returns:
        The number of rows written.

    Raises:
        UserError: a training row has no signals (the other code expects a line for each), an id holds a line break, or
            `folder` is not empty.
    """
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty; name a new folder")
    for what, ids in (("user", dataset.user_ids), ("item", dataset.catalogue.item_ids)):
        if broken := [each for each in ids if "\n" in each]:
            raise UserError(f"{what} id {broken[0]!r} holds a line break, but the files have a line for each id")
    rows = rows_in_order(dataset, "train")
    index = signals.lookup(len(dataset.items))[rows]
    if (index < 0).any():
        raise UserError(
            f"{int((index < 0).sum())} of {len(rows)} training rows have no signals, and the files need a line for "
            "each; run infer_teacher over all of them"
        )
    scores = signals.scores[index]
    distance = scores.max(axis=1, keepdims=True) - scores if signals.meta.higher_is_better else scores
    folder.mkdir(parents=True, exist_ok=True)
    np.savetxt(folder / RANKING, signals.items[index] - 1, fmt="%d")
    np.savetxt(folder / CONFIDENCE, distance, fmt="%.7g")
    torch.save(signals.item_embeddings[1:].clone(), folder / EMBEDDINGS)
    users = dataset.users_of(rows)
    positions = rows - dataset.offsets[users]
    lines = [f"{dataset.user_ids[user]}\t{position}" for user, position in zip(users, positions, strict=True)]
    _write_lines(folder / ROWS, lines)
    _write_lines(folder / ITEMS, dataset.catalogue.item_ids[1:])
    return len(rows)


def import_signals(folder: Path, dataset: PreparedDataset, uri: str, *, teacher: str = "imported") -> SignalsMeta:
    """Make teacher signals at `uri` from the files in `folder`.

    Raises:
        UserError: a file is missing or damaged, counts do not fit the dataset, an item lies outside the catalogue or
            stands twice in a row, a number is NaN; with the file and the line.
    """
    item_of = _items(folder, dataset)
    rows = _rows(folder, dataset)
    ranking = _numbers(folder / RANKING, len(rows))
    confidence = _numbers(folder / CONFIDENCE, len(rows))
    if confidence.shape != ranking.shape:
        raise UserError(f"{CONFIDENCE} has {confidence.shape[1]} numbers per line, {RANKING} has {ranking.shape[1]}")
    outside = (ranking != np.floor(ranking)) | (ranking < 0) | (ranking >= dataset.num_items)
    _refuse(RANKING, outside, lambda value: f"item {value:g} is not one of 0..{dataset.num_items - 1}", ranking)
    items = item_of[ranking.astype(np.int64)]
    ordered = np.sort(items, axis=1)
    twice = np.pad(ordered[:, 1:] == ordered[:, :-1], ((0, 0), (1, 0)))
    _refuse(RANKING, twice, lambda value: f"item {value:g} stands twice", np.argsort(item_of)[ordered - 1])
    embeddings = _embeddings(folder / EMBEDDINGS, item_of, dataset)
    hit = items == dataset.targets(rows)[:, None]
    distance = np.where(hit.any(axis=1), (confidence * hit).sum(axis=1), np.nan).astype(np.float32)
    order = np.argsort(rows, kind="stable")
    meta = SignalsMeta(
        teacher=teacher,
        checkpoint_hash="",
        fingerprint=dataset.fingerprint,
        k=items.shape[1],
        score_meaning="distance",
        higher_is_better=False,
        distance_meaning="that of the true item where it is among the K, otherwise missing",
        rows={"train": len(rows)},
        settings={"exchange": "dllm2rec"},
    )
    table = rankings_table(rows[order], items[order], confidence[order], distance[order])
    with storage.new_artifact(uri, attributes={"fingerprint": meta.fingerprint, "teacher": teacher}) as directory:
        (directory / "rankings").mkdir()
        pq.write_table(table, directory / "rankings" / "part-00000.parquet")
        save_file({"item_embeddings": embeddings}, directory / "item_embeddings.safetensors")
        (directory / "signals.json").write_text(meta.to_json())
    return meta


def rows_in_order(dataset: PreparedDataset, split: Split) -> np.ndarray:
    """The rows of a split in the order of the lines, [S] int64: in a `global_time` split by time."""
    rows = dataset.rows(split)
    return rows[np.argsort(dataset.timestamps[rows], kind="stable")] if dataset.protocol == "global_time" else rows


def _items(folder: Path, dataset: PreparedDataset) -> np.ndarray:
    """[N] int64: from an item of the files to ours."""
    if not (folder / ITEMS).exists():
        return np.arange(1, dataset.num_items + 1)
    ids = _lines(folder / ITEMS)
    found = [dataset.catalogue.number(item_id) for item_id in ids]
    if None in found:
        line = found.index(None)
        raise UserError(f"{ITEMS} line {line + 1}: item {ids[line]!r} is not in the dataset's catalogue")
    items = np.array(found, dtype=np.int64)
    if len(np.unique(items)) != dataset.num_items:
        raise UserError(f"{ITEMS} names {len(np.unique(items))} items, the dataset has {dataset.num_items}")
    return items


def _rows(folder: Path, dataset: PreparedDataset) -> np.ndarray:
    """The row of each line, [S] int64, unique."""
    if not (folder / ROWS).exists():
        return rows_in_order(dataset, "train")
    user_of = {user_id: user for user, user_id in enumerate(dataset.user_ids)}
    train = set(dataset.rows("train").tolist())
    rows: list[int] = []
    for number, line in enumerate(_lines(folder / ROWS), start=1):
        user_id, _, position = line.rpartition("\t")
        user_id = normal_id(user_id)
        if user_id not in user_of or not position.isdecimal():
            raise UserError(f"{ROWS} line {number}: {line!r} is not a user id of the dataset, a tab and a position")
        rows.append(int(dataset.offsets[user_of[user_id]]) + int(position))
        if rows[-1] not in train:
            raise UserError(f"{ROWS} line {number}: position {position} of user {user_id!r} is no training row")
        train.discard(rows[-1])  # a second line for it is refused
    return np.array(rows, dtype=np.int64)


def _numbers(path: Path, count: int) -> np.ndarray:
    """[count, K] float64."""
    lines = _lines(path)
    if len(lines) != count:
        raise UserError(f"{path.name} has {len(lines)} lines, but there are {count} training rows")
    table: list[np.ndarray] = []
    for number, line in enumerate(lines, start=1):
        try:
            table.append(np.array(line.split(), dtype=np.float64))
        except ValueError as error:
            raise UserError(f"{path.name} line {number}: {error}") from None
        if len(table[-1]) != len(table[0]) or not len(table[0]):
            raise UserError(f"{path.name} line {number}: {len(table[-1])} numbers, but line 1 has {len(table[0])}")
    numbers = np.stack(table)
    _refuse(path.name, ~np.isfinite(numbers), lambda value: f"{value:g} is not a number to rank by", numbers)
    return numbers


def _refuse(name: str, bad: np.ndarray, say: Callable[[float], str], values: np.ndarray) -> None:
    if bad.any():
        line, column = np.argwhere(bad)[0]
        raise UserError(f"{name} line {line + 1}: {say(float(values[line, column]))} ({int(bad.sum())} such places)")


def _embeddings(path: Path, item_of: np.ndarray, dataset: PreparedDataset) -> torch.Tensor:
    """[N+1, D] float32, row 0 zero."""
    if not path.exists():
        raise UserError(f"{path} does not exist")
    try:
        table = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        reason = str(error).strip().splitlines()[0][:120]
        raise UserError(f"{path.name} holds more than a tensor, or is damaged: {reason}") from None
    if not isinstance(table, torch.Tensor) or table.ndim != 2 or len(table) != dataset.num_items:
        shape = tuple(table.shape) if isinstance(table, torch.Tensor) else type(table).__name__
        raise UserError(f"{path.name} must be a tensor of {dataset.num_items} rows, one per item (it is {shape})")
    if not bool(torch.isfinite(table).all()):
        first = int((~torch.isfinite(table)).any(dim=1).nonzero()[0])
        raise UserError(f"{path.name}: the embedding of item {first} is not finite")
    embeddings = torch.zeros(len(table) + 1, table.shape[1])
    embeddings[torch.from_numpy(item_of)] = table.float()
    return embeddings


def _write_lines(path: Path, lines: list[str]) -> None:
    path.write_bytes("".join(f"{line}\n" for line in lines).encode())


def _lines(path: Path) -> list[str]:
    """Parted at line feeds alone: ids may hold whatever else Unicode calls a line break. Files whose lines all end in
    CR LF are read as well."""
    try:
        lines = path.read_bytes().decode().split("\n")
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except UnicodeDecodeError:
        raise UserError(f"{path.name} is not a text file in UTF-8") from None
    lines = lines if lines[-1] else lines[:-1]
    return [line.removesuffix("\r") for line in lines] if all(line.endswith("\r") for line in lines) else lines
