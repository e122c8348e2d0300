"""Which training rows are worth a teacher's time: data selection as in active learning, on arrays; and their file.

What a choice measures is known before the teacher has ranked a row. Settles, "Active Learning Literature Survey"
(2009), names the families: uncertainty sampling (§3.1), query by committee (§3.2), and coverage of the data as a
guard against choosing the same thing again and again (§3.6).

Legend: R rows, B rows at a time, N items, K candidates.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from recsys import storage
from recsys.errors import UserError

_ROWS = "rows.parquet"


def entropy(scores: Tensor) -> Tensor:
    """How uncertain a model is: the entropy of the softmax over the items, [B] in nats.

    Args:
        scores: [B, N+1] logits; column 0 is no item, and −∞ is an item that is left out.
    """
    return torch.special.entr(scores[:, 1:].softmax(dim=1)).sum(dim=1)


def disagreement(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Share of a model's K best items that are not among another's, [B] in [0, 1]; both are [B, K], without repeats."""
    return 1 - (one[:, :, None] == other[:, None, :]).any(axis=2).mean(axis=1)


def order_by(values: np.ndarray, *, seed: int) -> np.ndarray:
    """Indices of `values` [R], the greatest first, equal ones in an order of chance: [R] int64."""
    chance = np.random.default_rng((seed, 11)).permutation(len(values))
    return chance[np.argsort(-values[chance], kind="stable")]


def order_by_turns(groups: np.ndarray, *, seed: int) -> np.ndarray:
    """Indices of rows such that every beginning covers the groups as evenly as can be: [R] int64.

    All groups take turns: one row of each, then a second one of those that have it, and so on, so that no other choice
    of as many rows meets more groups. Rows of a group, and groups within a turn, come in an order of chance.

    Args:
        groups: [R] int, that of each row, such as its target item.
    """
    chance = np.random.default_rng((seed, 13)).permutation(len(groups))
    by_group = chance[np.argsort(groups[chance], kind="stable")]
    first = np.searchsorted(groups[by_group], groups[by_group])
    turn = np.empty(len(groups), dtype=np.int64)
    turn[by_group] = np.arange(len(groups)) - first
    return chance[np.argsort(turn[chance], kind="stable")]


def write_chosen(directory: Path, rows: np.ndarray) -> None:
    """Write chosen rows, [S] int64 ascending."""
    pq.write_table(pa.table({"row": rows}), directory / _ROWS)


def read_chosen(uri: str) -> np.ndarray:
    """The chosen rows of an artefact, [S] int64 ascending.

    Raises:
        UserError: they cannot be read.
    """
    try:
        table = pq.read_table(pa.BufferReader(storage.read_bytes(storage.join(uri, _ROWS))))
    except (FileNotFoundError, pa.ArrowInvalid):
        raise UserError(f"the chosen rows in {uri} cannot be read; make the signals again") from None
    rows: np.ndarray = table["row"].to_numpy()
    return rows
