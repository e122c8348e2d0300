"""Writing teacher signals by many writers, shard by shard, so that a killed pass goes on where it was.

The rows of the chosen splits, ascending, are cut into shards of equal size. Every writer writes a shard whole or not
at all, into a work directory beside the signals whose name carries the key of the pass: shards of another checkpoint,
dataset or setting are never taken for its own. When no shard is missing, the rows are checked against the plan, the
embeddings and `signals.json` are added, the directory is sealed and takes the place of the signals: those that were
there before stay until then.

Legend: S rows, K candidates, N items, D width.
"""

import io
import re
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs
from safetensors.torch import save
from torch import Tensor

from recsys import storage
from recsys.data.prepared import PreparedDataset
from recsys.data.splits import Split
from recsys.errors import UserError
from recsys.manifest import MANIFEST
from recsys.signals.signals import SignalsMeta, rankings_table
from recsys.signals.states import part_uri, write_part

_PART = re.compile(r"part-(\d{5,})\.(?:parquet|safetensors)")
_SECONDS = b"seconds"
_ASIDE = b"rows_set_aside"
_TOKENS = b"tokens"
_STATES = b"rows_with_states"


@dataclass(frozen=True)
class ShardPlan:
    """Which rows belong to which shard: every row that is to be ranked to exactly one.

    Attributes:
        rows: [S] int64 ascending, unique.
    """

    rows: np.ndarray
    rows_per_shard: int

    @classmethod
    def of(
        cls,
        dataset: PreparedDataset,
        splits: tuple[Split, ...],
        rows_per_shard: int,
        *,
        train_rows: int | None = None,
        chosen: np.ndarray | None = None,
    ) -> "ShardPlan":
        """The rows of the splits; of the training rows those `chosen`, or a sample of `train_rows`, always the same
        one, or all."""
        parts = [dataset.sample(split, train_rows if split == "train" else None, seed=0) for split in splits]
        if chosen is not None:
            parts = [chosen if split == "train" else rows for split, rows in zip(splits, parts, strict=True)]
        rows = np.unique(np.concatenate(parts)) if parts else np.zeros(0, dtype=np.int64)
        return cls(rows=rows, rows_per_shard=rows_per_shard)

    def __len__(self) -> int:
        return -(-len(self.rows) // self.rows_per_shard)

    def count(self, shards: Iterable[int]) -> int:
        """Rows of some shards."""
        return sum(len(self.shard(number)) for number in shards)

    def shard(self, number: int) -> np.ndarray:
        """The rows of a shard, contiguous in `rows`."""
        return self.rows[number * self.rows_per_shard : (number + 1) * self.rows_per_shard]


class SignalsWriter:
    """The work directory of one teacher pass.

    Args:
        uri: where the signals will be.
        key: digest of everything that the rankings depend on, `rows_per_shard` among it.
        k: K.
    """

    def __init__(self, uri: str, *, key: str, k: int) -> None:
        self.uri, self.key, self.k = uri, key, k
        parent, _, name = uri.rstrip("/").rpartition("/")
        self._parent, self._prefix = parent, f".{name}-"
        self.work = f"{parent}/{self._prefix}{key[:24]}"

    def write_shard(
        self,
        number: int,
        rows: np.ndarray,
        items: np.ndarray,
        scores: np.ndarray,
        target_distance: np.ndarray,
        *,
        seconds: float,
        aside: int = 0,
        tokens: int = 0,
        log_mass: np.ndarray | None = None,
        states: tuple[np.ndarray, Tensor] | None = None,
    ) -> None:
        """Write a shard whole; a shard that is there already is replaced by the same.

        Args:
            rows [S], items [S, K], scores [S, K], target_distance [S], log_mass [S]: see `rankings_schema`.
            seconds: how long the teacher took; summed up in the cost of the pass, as are
            tokens: what it read and wrote (`recsys.signals.rankings.Rankings`).
            aside: planned rows of the shard that the teacher has no ranking for.
            states: rows of the shard and the teacher's states of them (`recsys.signals.states`).
        """
        table = rankings_table(rows, items, scores, target_distance, log_mass)
        notes = {_SECONDS: repr(seconds).encode(), _ASIDE: str(aside).encode(), _TOKENS: str(tokens).encode()}
        buffer = io.BytesIO()
        if states is not None:
            write_part(self.work, number, *states)
            notes[_STATES] = str(len(states[0])).encode()
        pq.write_table(table.replace_schema_metadata(notes), buffer)
        storage.write_bytes(self._part(number), buffer.getvalue())

    def missing(self, plan: ShardPlan) -> list[int]:
        """Numbers of the shards that are still to be written; a file that is cut short counts as missing."""
        system, path = storage.filesystem(self.work)
        selector = fs.FileSelector(f"{path}/rankings", allow_not_found=True)
        written = {
            int(match[1]) for info in system.get_file_info(selector) if (match := _PART.fullmatch(info.base_name))
        }
        return [n for n in range(len(plan)) if n not in written or not self._whole(n, len(plan.shard(n)))]

    def finalise(
        self,
        plan: ShardPlan,
        meta: SignalsMeta,
        item_embeddings: Tensor,
        text_embeddings: Tensor | None,
        *,
        devices: float = 1,
        splits: Mapping[Split, np.ndarray] | None = None,
    ) -> np.ndarray:
        """Check the shards against the plan and make them the signals.

        Args:
            meta: its cost is filled in.
            item_embeddings: [N+1, D], row 0 zero; text_embeddings: [N+1, D'] or None.
            devices: GPUs of an actor, or cores where it has none.
            splits: rows by split; how many of them were ranked is filled in as `meta.rows`.

        Returns:
            The rows that were set aside, ascending.

        Raises:
            UserError: a shard is damaged or holds other rows than planned, or all rows were set aside.
        """
        seconds, tokens, parts = 0.0, 0, [np.zeros(0, dtype=np.int64)]
        for number in range(len(plan)):
            written, metadata = self._check(number, plan.shard(number))
            parts.append(written)
            seconds += float(metadata.get(_SECONDS, b"0"))
            tokens += int(metadata.get(_TOKENS, b"0"))
        ranked = np.concatenate(parts)
        if len(plan.rows) and not len(ranked):
            raise UserError(
                f"the teacher's prediction is not finite for {len(plan.rows)} of {len(plan.rows)} rows; "
                "its checkpoint is not usable, train it again"
            )
        self._remove_strangers(len(plan))
        aside = plan.rows[~np.isin(plan.rows, ranked)]
        meta.rows.update({name: int(np.isin(rows, ranked).sum()) for name, rows in (splits or {}).items()})
        meta.cost["rows_set_aside"] = len(aside)
        meta.cost["teacher_seconds"] = round(seconds, 3)
        meta.cost["device_seconds"] = round(seconds * devices, 3)
        meta.cost["rows_per_teacher_second"] = round(len(plan.rows) / seconds, 1) if seconds else None
        meta.cost["tokens"] = tokens
        meta.cost["tokens_per_teacher_second"] = round(tokens / seconds, 1) if seconds else None
        tensors = {"item_embeddings": item_embeddings.float().contiguous()}
        if text_embeddings is not None:
            tensors["text_embeddings"] = text_embeddings.float().contiguous()
        storage.write_bytes(storage.join(self.work, "item_embeddings.safetensors"), save(tensors))
        storage.write_bytes(storage.join(self.work, "signals.json"), meta.to_json().encode())
        storage.seal(self.work, key=self.key, attributes={"fingerprint": meta.fingerprint, "teacher": meta.teacher})
        self._publish()
        return aside

    def _part(self, number: int) -> str:
        return storage.join(self.work, "rankings", f"part-{number:05d}.parquet")

    def _whole(self, number: int, rows: int) -> bool:
        system, path = storage.filesystem(self._part(number))
        try:
            with system.open_input_file(path) as file:
                metadata = pq.read_metadata(file)
        except (pa.ArrowInvalid, FileNotFoundError):
            return False
        noted = metadata.metadata or {}
        if _STATES in noted and not storage.exists(part_uri(self.work, number)):
            return False
        return metadata.num_rows + int(noted.get(_ASIDE, b"0")) == rows

    def _check(self, number: int, rows: np.ndarray) -> tuple[np.ndarray, dict[bytes, bytes]]:
        """The rows of a shard that holds exactly `rows`, but for those set aside, and what is noted in it."""
        system, path = storage.filesystem(self._part(number))
        try:
            with system.open_input_file(path) as file:
                table = pq.read_table(file, columns=["row"])
        except (pa.ArrowInvalid, OSError) as error:
            raise UserError(
                f"shard {self._part(number)} is damaged ({' '.join(str(error).split())[:120]}); "
                "delete it and run infer_teacher again"
            ) from None
        metadata = table.schema.metadata or {}
        written = table["row"].to_numpy()
        unexplained = len(rows) - int(metadata.get(_ASIDE, b"0")) - len(written)
        if unexplained or not np.array_equal(written, rows[np.isin(rows, written)]):
            raise UserError(
                f"shard {self._part(number)} holds other rows than planned; delete it and run infer_teacher again"
            )
        return written, metadata

    def _remove_strangers(self, shards: int) -> None:
        """Delete what killed writers left half-way, so that the seal covers the shards alone."""
        for folder in ("rankings", "states"):
            system, path = storage.filesystem(storage.join(self.work, folder))
            for info in system.get_file_info(fs.FileSelector(path, allow_not_found=True)):
                match = _PART.fullmatch(info.base_name)
                if not match or int(match[1]) >= shards:
                    system.delete_file(info.path)

    def _publish(self) -> None:
        """Put the sealed work directory in the place of the signals; killed on the way, a second call finishes."""
        system, source = storage.filesystem(self.work)
        _, target = storage.filesystem(self.uri)
        _, parent = storage.filesystem(self._parent)
        if isinstance(system, fs.LocalFileSystem):
            if storage.exists(self.uri):
                Path(target).rename(f"{parent}/{self._prefix}old.{uuid.uuid4().hex[:8]}")
            Path(source).rename(target)
        else:  # no rename there: in between readers find none, and the sealed work directory has them
            storage.delete(self.uri)
            manifest = storage.read_bytes(storage.join(self.work, MANIFEST))
            for info in system.get_file_info(fs.FileSelector(source, recursive=True)):
                if info.type == fs.FileType.File and info.base_name != MANIFEST:
                    system.copy_file(info.path, target + info.path[len(source) :])
            storage.write_bytes(storage.join(self.uri, MANIFEST), manifest)
        self._remove_other_passes()

    def _remove_other_passes(self) -> None:
        """Of these signals, and what they replaced; those of other sets have a name before the key."""
        system, parent = storage.filesystem(self._parent)
        for info in system.get_file_info(fs.FileSelector(parent)):
            found = info.base_name.startswith(self._prefix) and "-" not in info.base_name[len(self._prefix) :]
            if info.type == fs.FileType.Directory and found:
                system.delete_dir(info.path)
