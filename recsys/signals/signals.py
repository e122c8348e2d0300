"""TeacherSignals: the rankings, scores and item embeddings of a teacher, as a directory.

    signals.json                     what made it, of which dataset, and what the scores mean (`SignalsMeta`)
    rankings/part-*.parquet          row, items [K], scores [K], target_distance, and where asked for log_mass_outside
    item_embeddings.safetensors      `item_embeddings` [N+1, D], and `text_embeddings` [N+1, D'] where the teacher
                                     has a text side of its own
    states/part-*.safetensors        where asked for, the teacher's states (`recsys.signals.states`)

Legend: S rows covered, K candidates, N items, T interactions, D width.
"""

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file

from recsys import storage
from recsys.data.prepared import PreparedDataset
from recsys.errors import UserError


def rankings_schema(k: int, *, log_mass: bool = False) -> pa.Schema:
    """`row` is the offset of the target in the concatenated sequences of the dataset; the log mass is optional."""
    fields = [
        ("row", pa.int64()),
        ("items", pa.list_(pa.int32(), k)),
        ("scores", pa.list_(pa.float32(), k)),
        ("target_distance", pa.float32()),
    ]
    return pa.schema(fields + [("log_mass_outside", pa.float32())] * log_mass)


def rankings_table(
    rows: np.ndarray,
    items: np.ndarray,
    scores: np.ndarray,
    target_distance: np.ndarray,
    log_mass: np.ndarray | None = None,
) -> pa.Table:
    """`rows` [S], `items` [S, K], `scores` [S, K], `target_distance` [S] and, if there is one, `log_mass` [S] as a
    table of `rankings_schema`."""
    k = items.shape[1]
    columns = [
        pa.array(rows, pa.int64()),
        pa.FixedSizeListArray.from_arrays(pa.array(items.reshape(-1), pa.int32()), k),
        pa.FixedSizeListArray.from_arrays(pa.array(scores.reshape(-1), pa.float32()), k),
        pa.array(target_distance, pa.float32()),
    ]
    if log_mass is not None:
        columns.append(pa.array(log_mass, pa.float32()))
    return pa.Table.from_arrays(columns, schema=rankings_schema(k, log_mass=log_mass is not None))


@dataclass(frozen=True, kw_only=True)
class SignalsMeta:
    """`signals.json`.

    Attributes:
        teacher: kind of the teacher ("hllm", …).
        checkpoint_hash: content hash of the teacher's checkpoint.
        fingerprint: of the dataset whose rows were ranked.
        k: length of each ranking.
        score_meaning: "logit", "distance", …
        higher_is_better: direction of the scores.
        distance_meaning: what `target_distance` is ("l2 of unit-normalised vectors", "-log p(target)"), or "none".
        masked_history: items of the history were never ranked.
        log_mass: whether the logarithm of the softmax mass outside the K is there for each row.
        rows: number of ranked rows per split.
        trained_on: splits whose rows, all or a sample (`learned_rows` of the teacher's settings), the teacher was
            trained on.
        settings: generation or scoring settings; `teacher` among them says what the teacher says of itself.
        cost: seconds, rows per second and the like.
        states: what the stored states are (`recsys.signals.states.StatesMeta`), None where there are none.
    """

    teacher: str
    checkpoint_hash: str
    fingerprint: str
    k: int
    score_meaning: str = "logit"
    higher_is_better: bool = True
    distance_meaning: str = "none"
    masked_history: bool = False
    log_mass: bool = False
    rows: dict[str, int] = field(default_factory=dict)
    trained_on: list[str] = field(default_factory=lambda: ["train"])
    settings: dict[str, Any] = field(default_factory=dict)
    cost: dict[str, Any] = field(default_factory=dict)
    states: dict[str, Any] | None = None

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2) + "\n"


@dataclass(frozen=True)
class TeacherSignals:
    """Signals in memory: S (8 K + 12) bytes, or 4 S more with the log mass, and the embeddings.

    Attributes:
        rows: [S] int64, ascending, unique.
        items: [S, K] int32, best first.
        scores: [S, K] float32.
        target_distance: [S] float32, NaN where the teacher has none.
        log_mass_outside: [S] float32, log(1 − softmax mass of the K) over all items that could be ranked, or None.
        item_embeddings: [N+1, D] float32, row 0 zero.
        text_embeddings: [N+1, D'] float32 or None.
        content_hash: of the whole artefact.
    """

    meta: SignalsMeta
    rows: np.ndarray
    items: np.ndarray
    scores: np.ndarray
    target_distance: np.ndarray
    item_embeddings: torch.Tensor
    text_embeddings: torch.Tensor | None
    log_mass_outside: np.ndarray | None
    content_hash: str

    def lookup(self, total: int) -> np.ndarray:
        """[total] int64: index into the signals for every offset of the concatenated sequences, -1 for none."""
        table = np.full(total, -1, dtype=np.int64)
        table[self.rows] = np.arange(len(self.rows))
        return table

    def permute(self, rows: np.ndarray, seed: int) -> "TeacherSignals":
        """The same signals with what they say of `rows` exchanged among these rows at random."""
        places = np.flatnonzero(np.isin(self.rows, rows))
        source = np.arange(len(self.rows))
        source[places] = np.random.default_rng(seed).permutation(places)
        mass = self.log_mass_outside
        return replace(
            self,
            items=self.items[source],
            scores=self.scores[source],
            target_distance=self.target_distance[source],
            log_mass_outside=None if mass is None else mass[source],
        )

    @classmethod
    def load(cls, uri: str, dataset: PreparedDataset) -> "TeacherSignals":
        """Read signals made for `dataset`.

        Raises:
            UserError: incomplete, damaged, or made for another dataset; ids out of range, rows doubled or NaN scores.
        """
        directory = storage.local_copy(uri, "teacher signals")
        try:
            meta = SignalsMeta(**json.loads((directory / "signals.json").read_text()))
            schema = rankings_schema(meta.k, log_mass=meta.log_mass)
            tables = [
                pq.read_table(part, schema=schema) for part in sorted((directory / "rankings").glob("part-*.parquet"))
            ]
            table = pa.concat_tables(tables).combine_chunks() if tables else schema.empty_table()
            embeddings = load_file(directory / "item_embeddings.safetensors")
        except (TypeError, pa.ArrowInvalid, json.JSONDecodeError, FileNotFoundError) as error:
            raise UserError(f"teacher signals {uri} are not in the expected form: {error}") from None
        if meta.fingerprint != dataset.fingerprint:
            raise UserError(
                f"teacher signals {uri} were made for dataset {meta.fingerprint[:12]}, but dataset {dataset.name!r} is "
                f"{dataset.fingerprint[:12]}; run infer_teacher on this dataset"
            )
        rows = table["row"].to_numpy()
        order = np.argsort(rows, kind="stable")
        items = table["items"].combine_chunks().flatten().to_numpy().reshape(-1, meta.k)[order]
        scores = table["scores"].combine_chunks().flatten().to_numpy().reshape(-1, meta.k)[order]
        distance = table["target_distance"].to_numpy(zero_copy_only=False)[order].astype(np.float32)
        rows = rows[order]
        cls._validate(uri, rows, items, scores, embeddings["item_embeddings"], dataset)
        manifest = storage.read_manifest(uri)
        assert manifest is not None
        return cls(
            meta=meta,
            rows=rows,
            items=items,
            scores=scores,
            target_distance=distance,
            item_embeddings=embeddings["item_embeddings"].float(),
            text_embeddings=embeddings["text_embeddings"].float() if "text_embeddings" in embeddings else None,
            content_hash=manifest.content_hash,
            log_mass_outside=table["log_mass_outside"].to_numpy()[order] if meta.log_mass else None,
        )

    @staticmethod
    def _validate(
        uri: str | Path,
        rows: np.ndarray,
        items: np.ndarray,
        scores: np.ndarray,
        embeddings: torch.Tensor,
        dataset: PreparedDataset,
    ) -> None:
        if len(rows) and (rows[0] < 0 or rows[-1] >= len(dataset.items)):
            raise UserError(
                f"teacher signals {uri}: row ids lie outside the dataset's {len(dataset.items)} interactions"
            )
        if len(np.unique(rows)) != len(rows):
            raise UserError(f"teacher signals {uri}: {len(rows) - len(np.unique(rows))} rows are there twice")
        if items.size and (items.min() < 1 or items.max() > dataset.num_items):
            raise UserError(f"teacher signals {uri}: item ids lie outside 1..{dataset.num_items}")
        if np.isnan(scores).any():
            raise UserError(f"teacher signals {uri}: {int(np.isnan(scores).any(axis=1).sum())} rows have NaN scores")
        if len(embeddings) != dataset.num_items + 1:
            raise UserError(
                f"teacher signals {uri}: {len(embeddings)} item embeddings for {dataset.num_items} items and padding"
            )
        if not bool(torch.isfinite(embeddings).all()):
            raise UserError(f"teacher signals {uri}: item embeddings are not all finite")
