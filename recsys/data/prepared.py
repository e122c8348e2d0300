"""PreparedDataset: the interaction log as contiguous sequences, written once, read by every later step.

A row is one prediction task: (user, position). Its id is the offset of its target in the concatenated sequences, its
history is the slice before it. No prefix is ever copied, so a log of T interactions takes 12 T bytes plus the rows,
whatever the history length.

Legend: U users, N items, T interactions, R rows of a split, L longest history.
"""

import hashlib
import itertools
import json
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recsys import storage
from recsys.data.attributes import Attributes
from recsys.data.ids import normal_id
from recsys.data.splits import SPLITS, Split, find_seen_by_training
from recsys.errors import UserError

ITEMS_SCHEMA = pa.schema(
    [("item", pa.int32()), ("item_id", pa.string()), ("title", pa.string()), ("train_count", pa.int64())]
)
SEQUENCES_SCHEMA = pa.schema(
    [
        ("user", pa.int32()),
        ("user_id", pa.string()),
        ("items", pa.list_(pa.int32())),
        ("timestamps", pa.list_(pa.int64())),
    ]
)
ROWS_SCHEMA = pa.schema([("user", pa.int32()), ("position", pa.int32())])
ATTRIBUTES = "attributes.parquet"
ROW_GROUP = 1 << 22  # interactions of a row group of sequences.parquet, about
_NONE = np.zeros(0, dtype=np.int32)


@dataclass(frozen=True)
class Catalogue:
    """The items: index 0 is padding, items are 1..N.

    Attributes:
        item_ids: N+1 strings, "" at 0.
        titles: N+1 strings, "" at 0 and where a title is missing.
        train_counts: [N+1] int64, how often an item occurs in the interactions that training may see.
        attributes: what else is known of them. They lie in a file of their own beside the items, so that artefacts
            without any are whole, and say nothing of what a model has learned: `hash` leaves them out.
    """

    item_ids: list[str]
    titles: list[str]
    train_counts: np.ndarray
    attributes: Attributes = field(default_factory=Attributes, compare=False)
    index: Mapping[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "index", {item_id: i for i, item_id in enumerate(self.item_ids) if i})

    def __len__(self) -> int:
        """N, padding not counted."""
        return len(self.item_ids) - 1

    def number(self, item_id: str) -> int | None:
        """The item (1..N) that an id of a request means, by the rule of `recsys.data.ids`; None where there is none."""
        found = self.index.get(item_id)
        return self.index.get(normal_id(item_id)) if found is None else found

    def title(self, item_id: str) -> str:
        """The title of an item, "" of one that the catalogue does not hold."""
        return self.titles[self.index.get(item_id, 0)]

    def known(self, history: Iterable[str]) -> tuple[list[int], list[str]]:
        """The items (1..N) of a history of ids, and the ids that mean none."""
        ids = list(history)
        exact = [n for n in map(self.index.get, ids) if n is not None]
        if len(exact) == len(ids):
            return exact, []
        numbers = [(item_id, self.number(item_id)) for item_id in ids]
        return [n for _, n in numbers if n is not None], [item_id for item_id, n in numbers if n is None]

    def extend(self, items: Mapping[str, str]) -> "Catalogue":
        """With further items (id → title) behind the others, which nobody has met in training and of which nothing else
        is known."""
        return Catalogue(
            [*self.item_ids, *items],
            [*self.titles, *items.values()],
            np.append(self.train_counts, np.zeros(len(items), dtype=np.int64)),
            self.attributes.extend(len(items)),
        )

    def popular(self) -> np.ndarray:
        """Item indices 1..N, most frequent in training first, ties by index: [N] int64."""
        return self._popular

    @cached_property
    def _popular(self) -> np.ndarray:
        return np.argsort(-self.train_counts[1:], kind="stable") + 1

    def write(self, path: Path) -> None:
        table = pa.table(
            {
                "item": np.arange(1, len(self.item_ids), dtype=np.int32),
                "item_id": self.item_ids[1:],
                "title": self.titles[1:],
                "train_count": self.train_counts[1:],
            },
            schema=ITEMS_SCHEMA,
        )
        pq.write_table(table, path)
        if self.attributes:
            self.attributes.write(path.with_name(ATTRIBUTES))

    @property
    def hash(self) -> str:
        """SHA-256 over ids and titles in their order: equal where an item's number means the same."""
        return hashlib.sha256(f"{_hash_strings(self.item_ids)} {_hash_strings(self.titles)}".encode()).hexdigest()

    @classmethod
    def read(cls, path: Path) -> "Catalogue":
        """
        Raises:
            UserError: its rows are not items 1..N in this order, each with an id of its own.
        """
        table = pq.read_table(path, schema=ITEMS_SCHEMA)
        if not np.array_equal(table["item"].to_numpy(), np.arange(1, len(table) + 1)):
            raise UserError(f"{path} does not hold items 1 to {len(table)} in this order; make it again")
        if any(column.null_count for column in table.columns):
            raise UserError(f"{path} has rows without an id, a title or a count; make it again")
        if len(table["item_id"].unique()) < len(table):
            raise UserError(f"{path} holds an item id twice; make it again")
        beside = path.with_name(ATTRIBUTES)
        return cls(
            item_ids=["", *table["item_id"].to_pylist()],
            titles=["", *table["title"].to_pylist()],
            train_counts=np.concatenate([[0], table["train_count"].to_numpy()]).astype(np.int64),
            attributes=Attributes.read(beside, len(table)) if beside.exists() else Attributes(),
        )


@dataclass(frozen=True)
class PreparedDataset:
    """The contract between data preparation and everything after it.

    Attributes:
        name: what the user calls it.
        source: where it came from (file names and hashes, never a machine's paths).
        protocol: `leave_one_out` or `global_time` (`recsys.data.splits`).
        max_history: the longest history a model is shown.
        fingerprint: SHA-256 over item ids, user ids, order and splits; travels with every artefact made from it.
        titles_hash: SHA-256 over the titles alone.
        user_ids: U strings.
        offsets: [U+1] int64; user u owns `items[offsets[u]:offsets[u+1]]`, oldest first.
        items: [T] int32.
        timestamps: [T] int64.
        split_rows: split → [R] int64 ascending, the offsets of its targets.
    """

    name: str
    source: Mapping[str, Any]
    protocol: str
    max_history: int
    catalogue: Catalogue
    user_ids: list[str]
    offsets: np.ndarray
    items: np.ndarray
    timestamps: np.ndarray
    split_rows: Mapping[Split, np.ndarray]
    fingerprint: str = ""
    titles_hash: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.fingerprint:
            object.__setattr__(self, "fingerprint", self._fingerprint())
        if not self.titles_hash:
            object.__setattr__(self, "titles_hash", _hash_strings(self.catalogue.titles))

    @property
    def num_items(self) -> int:
        return len(self.catalogue)

    @property
    def num_users(self) -> int:
        return len(self.user_ids)

    def rows(self, split: Split) -> np.ndarray:
        """Target offsets of a split, [R] int64 ascending."""
        return self.split_rows[split]

    def sample(self, split: Split, size: int | None, *, seed: int) -> np.ndarray:
        """A seeded sample of a split's rows, ascending; all of them where there are no more, or no size is given."""
        rows = self.rows(split)
        if size is None or size >= len(rows):
            return rows
        return np.sort(np.random.default_rng((seed, 7)).choice(rows, size, replace=False))

    def users_of(self, rows: np.ndarray) -> np.ndarray:
        """The user (0..U-1) of each row, [R] int64."""
        return np.searchsorted(self.offsets, rows, side="right") - 1

    def sequence(self, user: int) -> slice:
        """Where the whole sequence of a user (0..U-1) lies among the interactions, oldest first."""
        return slice(int(self.offsets[user]), int(self.offsets[user + 1]))

    def sequence_ids(self, user: int) -> list[str]:
        """The whole sequence of a user (0..U-1) as catalogue ids, oldest first."""
        ids = self.catalogue.item_ids
        return [ids[i] for i in self.items[self.sequence(user)].tolist()]

    def targets(self, rows: np.ndarray) -> np.ndarray:
        """Target item of each row, [R] int32."""
        return self.items[rows]

    def folds(self, count: int) -> np.ndarray:
        """The fold (0..count-1) of each user, [U] int64, by a hash of the user's id: the same in every process."""
        return np.array([zlib.crc32(user_id.encode()) % count for user_id in self.user_ids], dtype=np.int64)

    def without_training_rows_of(self, users: np.ndarray) -> "PreparedDataset":
        """This dataset, same fingerprint, with nothing to learn from some users ([U] bool): no rows of theirs, and
        nothing of them in the counts of the catalogue."""
        rows = self.rows("train")
        kept = rows[~users[self.users_of(rows)]]
        seen = find_seen_by_training(self.offsets, kept)
        counts = np.bincount(self.items[seen], minlength=self.num_items + 1).astype(np.int64)
        return replace(
            self,
            split_rows={**self.split_rows, "train": kept},
            catalogue=replace(self.catalogue, train_counts=counts),
        )

    def histories(self, rows: np.ndarray, max_history: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The latest items before each target.

        Returns:
            items: [R, L] int64, oldest first, padded with 0 on the right.
            lengths: [R] int64, at least 1 for every row of a valid dataset.
        """
        index, inside, lengths = self._locate_items(rows, max_history or self.max_history)
        return np.where(inside, self.items[index], 0).astype(np.int64), lengths

    def history_times(self, rows: np.ndarray) -> np.ndarray:
        """When the items of `histories` were met, [R, L] int64, 0 at padding."""
        index, inside, _ = self._locate_items(rows, self.max_history)
        return np.where(inside, self.timestamps[index], 0)

    def _locate_items(self, rows: np.ndarray, limit: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Offsets of the items of histories and which are no padding, [R, L] each, and their number [R]."""
        start = self.offsets[self.users_of(rows)]
        first = np.maximum(start, rows - limit)
        lengths = rows - first
        columns = np.arange(limit)
        index = first[:, None] + columns[None, :]
        return np.minimum(index, len(self.items) - 1), columns[None, :] < lengths[:, None], lengths

    def seen(self, row: int) -> np.ndarray:
        """Every item of the user before the row's target (the whole past, not only the latest L), int32."""
        return self.items[self.offsets[np.searchsorted(self.offsets, row, side="right") - 1] : row]

    def latest(self, row: int) -> slice:
        """Where the latest L items before the row's target lie in `items` and `timestamps`."""
        return slice(max(row - self.max_history, row - len(self.seen(row))), row)

    def past(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`seen` for many rows at once.

        Returns:
            which: [M] int64 indices into `rows`, ascending; items: [M] int64.
        """
        starts = self.offsets[self.users_of(rows)]
        count = rows - starts
        which = np.repeat(np.arange(len(rows)), count)
        within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        return which, self.items[np.repeat(starts, count) + within].astype(np.int64)

    def write(self, uri: str, *, key: str = "") -> None:
        """Write the artefact directory `uri`, whole or not at all."""
        with storage.new_artifact(uri, key=key, attributes={"fingerprint": self.fingerprint}) as directory:
            self.catalogue.write(directory / "items.parquet")
            with pq.ParquetWriter(directory / "sequences.parquet", SEQUENCES_SCHEMA) as writer:
                for first, last in self._user_groups():
                    writer.write_table(self._sequences(first, last))
            (directory / "splits").mkdir()
            for split in SPLITS:
                rows = self.rows(split)
                users = self.users_of(rows)
                table = pa.table(
                    {"user": users.astype(np.int32), "position": (rows - self.offsets[users]).astype(np.int32)},
                    schema=ROWS_SCHEMA,
                )
                pq.write_table(table, directory / "splits" / f"{split}.parquet")
            (directory / "dataset.json").write_text(json.dumps(self.describe(), indent=2) + "\n")

    def _user_groups(self) -> list[tuple[int, int]]:
        """Users [first, last) of each row group: list columns count in 32 bits, which a whole log may exceed."""
        cuts = np.searchsorted(self.offsets, np.arange(ROW_GROUP, int(self.offsets[-1]), ROW_GROUP))
        bounds = [0, *dict.fromkeys(int(cut) for cut in cuts if 0 < cut < self.num_users), self.num_users]
        return list(itertools.pairwise(bounds))

    def _sequences(self, first: int, last: int) -> pa.Table:
        start, end = self.offsets[first], self.offsets[last]
        offsets = pa.array((self.offsets[first : last + 1] - start).astype(np.int32))
        return pa.table(
            {
                "user": np.arange(first, last, dtype=np.int32),
                "user_id": self.user_ids[first:last],
                "items": pa.ListArray.from_arrays(offsets, pa.array(self.items[start:end], pa.int32())),
                "timestamps": pa.ListArray.from_arrays(offsets, pa.array(self.timestamps[start:end], pa.int64())),
            },
            schema=SEQUENCES_SCHEMA,
        )

    def describe(self) -> dict[str, Any]:
        """The facts of `dataset.json`."""
        return {
            "name": self.name,
            "source": dict(self.source),
            "protocol": self.protocol,
            "max_history": self.max_history,
            "counts": {
                "users": self.num_users,
                "items": self.num_items,
                "interactions": len(self.items),
                **{f"{split}_rows": len(self.rows(split)) for split in SPLITS},
            },
            "fingerprint": self.fingerprint,
            "titles_hash": self.titles_hash,
            "facts": dict(self.facts),
        }

    @classmethod
    def load(cls, uri: str) -> "PreparedDataset":
        """Read a dataset; takes memory in proportion to T.

        Raises:
            UserError: there is none, it is incomplete or damaged.
        """
        directory = storage.local_copy(uri, "prepared dataset")
        try:
            meta = json.loads((directory / "dataset.json").read_text())
            lengths, items, timestamps, user_ids = [_NONE], [_NONE], [_NONE], []
            with pq.ParquetFile(directory / "sequences.parquet") as file:
                for group in range(file.num_row_groups):
                    table = file.read_row_group(group).cast(SEQUENCES_SCHEMA)
                    user_ids += table["user_id"].to_pylist()
                    for chunk in table["items"].chunks:
                        lengths.append(chunk.value_lengths().to_numpy())
                        items.append(chunk.flatten().to_numpy())
                    timestamps += [chunk.flatten().to_numpy() for chunk in table["timestamps"].chunks]
            offsets = np.cumsum(np.concatenate([[0], *lengths]), dtype=np.int64)
            split_rows: dict[Split, np.ndarray] = {}
            for split in SPLITS:
                table = pq.read_table(directory / "splits" / f"{split}.parquet", schema=ROWS_SCHEMA)
                rows = offsets[table["user"].to_numpy()] + table["position"].to_numpy()
                split_rows[split] = np.sort(rows)
            loaded = cls(
                name=meta["name"],
                source=meta["source"],
                protocol=meta["protocol"],
                max_history=meta["max_history"],
                catalogue=Catalogue.read(directory / "items.parquet"),
                user_ids=user_ids,
                offsets=offsets,
                items=np.concatenate(items, dtype=np.int32),
                timestamps=np.concatenate(timestamps, dtype=np.int64),
                split_rows=split_rows,
                fingerprint=meta["fingerprint"],
                titles_hash=meta["titles_hash"],
                facts=meta["facts"],
            )
        except (KeyError, FileNotFoundError, json.JSONDecodeError, pa.ArrowInvalid) as error:
            raise UserError(f"{uri} is not a prepared dataset ({error}); give the folder prepare_data wrote") from None
        if loaded._fingerprint() != loaded.fingerprint or _hash_strings(loaded.catalogue.titles) != loaded.titles_hash:
            raise UserError(f"prepared dataset {uri} is damaged: its files do not belong together; make it again")
        return loaded

    @staticmethod
    def load_catalogue(uri: str) -> Catalogue:
        """The catalogue of a dataset alone.

        Raises:
            UserError: there is none, it is incomplete or damaged.
        """
        return Catalogue.read(storage.local_copy(uri, "prepared dataset") / "items.parquet")

    def _fingerprint(self) -> str:
        hasher = hashlib.sha256()
        hasher.update(f"{self.protocol} {self.max_history} ".encode())
        hasher.update(_hash_strings(self.catalogue.item_ids).encode())
        hasher.update(_hash_strings(self.user_ids).encode())
        hasher.update(self.offsets.astype("<i8").tobytes())
        hasher.update(self.items.astype("<i4").tobytes())
        for split in SPLITS:
            hasher.update(self.split_rows[split].astype("<i8").tobytes())
        return hasher.hexdigest()


def _hash_strings(strings: list[str]) -> str:
    """SHA-256 over the ends (int64) and the bytes of the concatenated strings."""
    ends, text = pa.array(strings, pa.large_string()).buffers()[1:]
    hasher = hashlib.sha256(np.frombuffer(ends, np.int64, len(strings) + 1).astype("<i8").tobytes())
    if text is not None:
        hasher.update(text)
    return hasher.hexdigest()
