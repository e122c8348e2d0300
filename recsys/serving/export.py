"""A model for other programs: its vectors as tables, and the whole of it as one file of `torch.export`.

Legend: B batch, L history, N items, D width of the vectors, U users.
"""

import json
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn

from recsys.checkpoint import Checkpoint
from recsys.data.prepared import PreparedDataset
from recsys.errors import UserError
from recsys.histories import UNKNOWN_TIME, Histories
from recsys.model import CausalRecommender

TOLERANCE = 1e-4
"""By how much a score of the exported file may differ from the checkpoint's, relative to the largest score or, where
that is below one, as it stands."""

_SHAPES = ((1, 1), (2, 0), (9, 3), (33, 7), (1, 0))  # histories and their length, 0 for the longest


@dataclass(frozen=True)
class Parity:
    """What the exported file and the checkpoint were compared on.

    Attributes:
        histories: made-up ones, of all lengths.
        difference: the largest of any score, in units of `TOLERANCE`'s scale.
        same_best: share of the histories whose ten best items are the same, in the same order.
        dynamic_length: histories of any length may be asked; otherwise they are padded to the longest.
    """

    histories: int
    difference: float
    same_best: float
    dynamic_length: bool


class Scorer(nn.Module):
    """What is exported: items [B, L] int64, oldest first, padded with 0 on the right → scores [B, N+1] float32; column
    0, the padding, is -inf."""

    vectors: Tensor

    def __init__(self, model: CausalRecommender) -> None:
        super().__init__()
        self.model = model
        with torch.no_grad():
            self.register_buffer("vectors", model.item_vectors().detach().float().clone())

    def forward(self, items: Tensor) -> Tensor:
        lengths = (items > 0).sum(dim=1)
        hidden = self.model.hidden(Histories(items, lengths), self.vectors)
        last = (lengths - 1).clamp_min(0)[:, None, None].expand(-1, 1, hidden.shape[2])
        scores = hidden.gather(1, last).squeeze(1).float() @ self.vectors.T
        return scores.index_fill(1, torch.zeros(1, dtype=torch.int64), -torch.inf)


def require_vectors(checkpoint: Checkpoint) -> CausalRecommender:
    """The model, whose scores are dot products of vectors of histories and of items.

    Raises:
        UserError: they are not.
    """
    model = checkpoint.model
    if not isinstance(model, CausalRecommender):
        raise UserError(
            f"the scores of a model of kind {model.kind} are no dot products of a history's vector and the items'; "
            "export a student, or what a hybrid is made of"
        )
    return model


@torch.no_grad()
def write_items(checkpoint: Checkpoint, path: Path) -> int:
    """Write item_id, title and vector [D] float32 of every item as Parquet; D."""
    model, catalogue = require_vectors(checkpoint), checkpoint.catalogue
    vectors = model.item_vectors().float().cpu().numpy()[1:]
    columns = [pa.array(catalogue.item_ids[1:]), pa.array(catalogue.titles[1:]), _vectors(vectors)]
    pq.write_table(pa.table(columns, names=["item_id", "title", "vector"]), path)
    return vectors.shape[1]


def write_queries(checkpoint: Checkpoint, dataset: PreparedDataset, path: Path, batch_size: int = 256) -> int:
    """Write user and vector [D] float32 of every user's whole history as Parquet: dot products with the items' vectors
    are the scores. Users of whom no item is known are left out; how many are written.

    Memory: a batch's passes through the model.
    """
    written = 0
    schema = pa.schema([("user", pa.string()), ("vector", pa.list_(pa.float32(), _width(checkpoint)))])
    with pq.ParquetWriter(path, schema) as writer:
        for ids, vectors in _queries(checkpoint, dataset, batch_size):
            writer.write_table(pa.table([pa.array(ids), _vectors(vectors)], schema=schema))
            written += len(ids)
    return written


@torch.inference_mode()
def _queries(
    checkpoint: Checkpoint, dataset: PreparedDataset, batch_size: int
) -> Iterator[tuple[list[str], np.ndarray]]:
    model, limit = require_vectors(checkpoint), checkpoint.max_history
    numbers = np.array([0, *(checkpoint.catalogue.number(i) or 0 for i in dataset.catalogue.item_ids[1:])])
    vectors = model.item_vectors()
    for first in range(0, dataset.num_users, batch_size):
        last = min(first + batch_size, dataset.num_users)
        items = np.zeros((last - first, limit), dtype=np.int64)
        times = np.full_like(items, UNKNOWN_TIME)
        for row, user in enumerate(range(first, last)):
            own = dataset.sequence(user)
            known = numbers[dataset.items[own]]
            met = dataset.timestamps[own][known > 0][-limit:]
            known = known[known > 0][-limit:]
            items[row, : len(known)], times[row, : len(known)] = known, met
        some = items[:, 0] > 0
        if some.any():
            shown = Histories.of(torch.from_numpy(items[some]), torch.from_numpy(times[some])).trim()
            names = [dataset.user_ids[user] for user in range(first, last) if some[user - first]]
            yield names, model.query(shown, vectors).float().cpu().numpy()


def write_model(checkpoint: Checkpoint, path: Path) -> Parity:
    """Write the scoring of histories as one file that needs PyTorch alone, and compare it with the checkpoint.

    The file carries `items.json` (ids by column, "" first) and `model.json` (what it is) as extra files. Batch and
    length are dynamic, but for models that PyTorch unrolls over the length (GRU4Rec): their histories are padded to the
    longest.

    Raises:
        UserError: PyTorch cannot export the model, or what it exported scores otherwise.
    """
    model, longest = require_vectors(checkpoint), checkpoint.max_history
    scorer = Scorer(model).eval()
    facts = {"kind": model.kind, "checkpoint": checkpoint.hash, "max_history": longest}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the buffers that a GRU keeps of its weights
            program, dynamic = _program(scorer, longest)
    except Exception as error:  # whatever PyTorch's tracing meets
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"a model of kind {model.kind} cannot be exported by torch.export: {reason}") from None
    files = {"items.json": json.dumps(checkpoint.catalogue.item_ids), "model.json": json.dumps(facts)}
    torch.export.save(program, path, extra_files=files)
    parity = _compare(torch.export.load(path).module(), checkpoint, dynamic)
    if not parity.difference <= TOLERANCE:
        raise UserError(
            f"the exported {model.kind} scores otherwise than its checkpoint, by {parity.difference:.1e}; more than "
            f"{TOLERANCE:.0e} is not let pass"
        )
    return parity


def _program(scorer: Scorer, longest: int) -> tuple[Any, bool]:
    """The exported program, and whether its length is dynamic."""
    from torch.export import Dim

    batch = Dim("batch", min=1)
    if longest > 2:
        example = torch.ones(3, longest - 1, dtype=torch.int64)
        shapes = {"items": {0: batch, 1: Dim("length", min=1, max=longest)}}
        try:
            return torch.export.export(scorer, (example,), dynamic_shapes=shapes), True
        except torch._dynamo.exc.UserError:  # it unrolls over the length
            pass
    example = torch.ones(3, longest, dtype=torch.int64)
    return torch.export.export(scorer, (example,), dynamic_shapes={"items": {0: batch}}), False


@torch.no_grad()
def _compare(exported: Any, checkpoint: Checkpoint, dynamic: bool) -> Parity:
    model, longest = checkpoint.model, checkpoint.max_history
    generator = torch.Generator().manual_seed(0)
    histories, difference, same = 0, 0.0, 0
    for size, length in _SHAPES:
        wide = min(length or longest, longest)
        items = torch.randint(1, model.num_items + 1, (size, wide), generator=generator)
        lengths = torch.randint(1, wide + 1, (size,), generator=generator)
        lengths[0] = wide
        items[torch.arange(wide) >= lengths[:, None]] = 0
        asked = items if dynamic else nn.functional.pad(items, (0, longest - wide))
        expected, given = model.scores(Histories(items, lengths))[:, 1:], exported(asked)[:, 1:]
        scale = float(expected.abs().max().clamp_min(1.0))
        difference = max(difference, float((expected - given).abs().max()) / scale)
        k = min(10, model.num_items)
        same += int((expected.topk(k).indices == given.topk(k).indices).all(dim=1).sum())
        histories += size
    return Parity(histories, difference, same / histories, dynamic)


def _width(checkpoint: Checkpoint) -> int:
    with torch.no_grad():
        return int(require_vectors(checkpoint).item_vectors().shape[1])


def _vectors(vectors: np.ndarray) -> pa.FixedSizeListArray:
    """[M, D] as a column."""
    return pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1), pa.float32()), vectors.shape[1])
