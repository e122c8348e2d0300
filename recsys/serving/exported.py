"""An exported model (`recsys.serving.export`) as a recommender: one file of `torch.export`, served as it is.

Reading such a file runs what is in it, as it is a program. An arm gets one only where its configuration says
`export:NAME`; no checkpoint can bring one along.
"""

import json
from collections.abc import Callable

import pyarrow.parquet as pq
import torch
from torch import Tensor

from recsys import storage
from recsys.checkpoint import Checkpoint
from recsys.data.prepared import Catalogue
from recsys.errors import UserError
from recsys.histories import Histories
from recsys.model import SequentialRecommender


class Exported(SequentialRecommender):
    """A model whose scores an exported program computes, on the CPU.

    Args:
        program: items [B, L] int64, oldest first, padded with 0 on the right → scores [B, N+1] float32.
        length: to which histories are padded; None where it takes any.
    """

    kind = "exported"

    def __init__(
        self, program: Callable[[Tensor], Tensor], vectors: Tensor, *, num_items: int, length: int | None
    ) -> None:
        super().__init__(None, num_items=num_items)
        self._program, self._length = program, length
        self.register_buffer("vectors", vectors)

    def item_vectors(self) -> Tensor:
        vectors: Tensor = self.get_buffer("vectors")
        return vectors

    def scores(self, histories: Histories, vectors: Tensor | None = None) -> Tensor:  # noqa: ARG002
        items = histories.items
        if self._length is not None:
            items = torch.nn.functional.pad(items, (0, self._length - items.shape[1]))
        return self._program(items)


def load_exported(uri: str, catalogue: Catalogue) -> Checkpoint:
    """An export as a loaded checkpoint; its hash is that of the export.

    Args:
        catalogue: of the dataset; the export's items begin with its items.

    Raises:
        UserError: it is missing or damaged, was made without `model.pt2` or of other items.
    """
    folder = storage.local_copy(uri, "export")
    manifest = storage.read_manifest(uri)
    info = json.loads((folder / "export.json").read_text())
    if manifest is None or "parity" not in info:
        raise UserError(f"export {uri} has no model.pt2; export it again without --vectors-only")
    table = pq.read_table(folder / "items.parquet", columns=["item_id", "title"])
    ids, titles = table["item_id"].to_pylist(), table["title"].to_pylist()
    if ids[: len(catalogue)] != catalogue.item_ids[1:]:
        raise UserError(f"export {uri} is of other items than the dataset; export a model of this dataset")
    further = dict(zip(ids[len(catalogue) :], titles[len(catalogue) :], strict=True))
    files = {"items.json": "", "model.json": ""}
    program = torch.export.load(folder / "model.pt2", extra_files=files).module()
    if json.loads(files["items.json"])[1:] != ids:
        raise UserError(f"export {uri} is damaged: model.pt2 is of other items than items.parquet; export it again")
    longest = int(json.loads(files["model.json"])["max_history"])
    model = Exported(
        program,
        program.get_buffer("vectors"),
        num_items=len(ids),
        length=None if info["parity"]["dynamic_length"] else longest,
    )
    return Checkpoint(model, catalogue.extend(further), longest, manifest.content_hash, info)
