"""What is done to one hash partition of users, a table at a time: the steps of preparation that scale out.

All interactions of a user lie in one partition, so user counts and sequences are local; global are only the item ids,
their counts and which of them are still alive. A step is a function from table to table (or tables), pickled to
wherever the partition lies. Legend: N items of the log, P partitions.
"""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from recsys.data.readers.times import FIRST_DATE

SURVEY_SCHEMA = pa.schema(
    [
        ("item_id", pa.string()),
        ("count", pa.int64()),
        ("first_row", pa.int64()),
        # Lines without an item tell what went wrong: how many rows, the first of them, and why.
        ("problem", pa.string()),
    ]
)
ENCODED_SCHEMA = pa.schema(
    [
        ("user", pa.int32()),  # within the partition
        ("user_id", pa.string()),  # at the first interaction of a user, else null
        ("first_row", pa.int64()),  # of the user
        ("item", pa.int32()),  # 0..N-1
        ("timestamp", pa.int64()),  # nanoseconds since 1970
    ]
)
SEQUENCES_SCHEMA = pa.schema(
    [
        ("user_id", pa.string()),
        ("first_row", pa.int64()),
        ("items", pa.large_list(pa.int32())),
        ("timestamps", pa.large_list(pa.int64())),
    ]
)
UNDATED = "a time near 1970 among dates; data.time_unit=s takes it as it is"
COUNTS_SCHEMA = pa.schema([("item", pa.int32()), ("count", pa.int64())])


def bucket_of(user_ids: pa.ChunkedArray, partitions: int) -> np.ndarray:
    """The partition of each user, [rows] int32: a hash of the id, the same in every process; 0 for a null id."""
    encoded = user_ids.combine_chunks().dictionary_encode()
    hashes = pd.util.hash_array(encoded.dictionary.to_numpy(zero_copy_only=False).astype(object), categorize=False)
    buckets = np.append((hashes % np.uint64(partitions)).astype(np.int32), np.int32(0))
    return buckets[encoded.indices.fill_null(len(hashes)).to_numpy()]


def survey(log: pa.Table) -> pa.Table:
    """Items of a partition with counts and first rows, its unreadable rows, and those whose time is no date (which is
    a fault only where others have dates): `SURVEY_SCHEMA`."""
    good = log.filter(pc.is_valid(log["user_id"]))
    items = good.group_by("item_id").aggregate([("row", "count"), ("row", "min")])
    tables = [
        pa.table(
            [items["item_id"], items["row_count"], items["row_min"], pa.nulls(len(items), pa.string())],
            schema=SURVEY_SCHEMA,
        )
    ]
    if len(good) < len(log):
        bad = log.filter(pc.is_null(log["user_id"]))
        first = pc.index(bad["row"], pc.min(bad["row"])).as_py()
        tables.append(_fault(len(bad), bad["row"][first].as_py(), bad["problem"][first].as_py()))
    undated = good.filter(pa.array(~mark_dated(good)))
    if len(undated):
        tables.append(_fault(len(undated), pc.min(undated["row"]).as_py(), UNDATED))
    return pa.concat_tables(tables)


def mark_dated(log: pa.Table) -> np.ndarray:
    """Which rows have a time that is a date and no small number, [rows] bool."""
    return np.abs(log["timestamp"].to_numpy()) >= FIRST_DATE


def _fault(count: int, first_row: int, problem: str) -> pa.Table:
    line = {"item_id": None, "count": count, "first_row": first_row, "problem": problem}
    return pa.Table.from_pylist([line], schema=SURVEY_SCHEMA)


def encode(log: pa.Table, item_ids: pa.Array, *, only_dated: bool = False) -> pa.Table:
    """Sort a partition by (user, time, row) and replace ids by numbers: `ENCODED_SCHEMA`.

    Users are numbered by their first row. Memory: about 60 bytes per interaction of the partition, besides its ids.

    Args:
        only_dated: leave out rows whose time is no date.
    """
    log = log.filter(pc.is_valid(log["user_id"]))
    if only_dated:
        log = log.filter(pa.array(mark_dated(log)))
    log = log.combine_chunks()
    row = log["row"].to_numpy()
    codes, names = _codes(log["user_id"])
    first_row = np.full(len(names), np.iinfo(np.int64).max)
    np.minimum.at(first_row, codes, row)
    by_first = np.argsort(first_row, kind="stable")
    rank = np.empty(len(names), np.int32)
    rank[by_first] = np.arange(len(names), dtype=np.int32)
    user = rank[codes]
    timestamp = log["timestamp"].to_numpy()
    # Rows mostly come in order, and the sort is stable: a third key is then a third of the time for nothing.
    in_order = bool((row[1:] > row[:-1]).all())
    order = np.lexsort((timestamp, user) if in_order else (row, timestamp, user))
    user = user[order]
    item = pc.index_in(log["item_id"], value_set=item_ids).to_numpy()[order].astype(np.int32)
    heads = np.flatnonzero(np.diff(user, prepend=-1))
    ids = np.full(len(user), -1, np.int64)
    ids[heads] = by_first
    return pa.table(
        [
            user,
            names.take(pa.array(ids, mask=ids < 0)),
            first_row[by_first][user],
            item,
            timestamp[order],
        ],
        schema=ENCODED_SCHEMA,
    )


def core_counts(encoded: pa.Table, alive: np.ndarray, min_user: int) -> pa.Table:
    """How often each alive item occurs with users that keep at least `min_user` alive items: `COUNTS_SCHEMA`."""
    item = encoded["item"].to_numpy()[_mark_kept(encoded, alive, min_user)]
    counts = np.bincount(item, minlength=len(alive))
    present = np.flatnonzero(counts)
    return pa.table([present.astype(np.int32), counts[present]], schema=COUNTS_SCHEMA)


def sequences(encoded: pa.Table, alive: np.ndarray, min_user: int) -> pa.Table:
    """What is left of each user, as lists, oldest first: `SEQUENCES_SCHEMA`; items keep their numbers 0..N-1."""
    kept = _mark_kept(encoded, alive, min_user)
    user = encoded["user"].to_numpy()
    counts = np.bincount(user[kept], minlength=user[-1] + 1 if len(user) else 0)
    heads = np.flatnonzero(np.diff(user, prepend=-1))[counts > 0]
    offsets = pa.array(np.concatenate([[0], np.cumsum(counts[counts > 0])]), pa.int64())
    return pa.table(
        [
            encoded["user_id"].take(heads).combine_chunks(),
            encoded["first_row"].take(heads).combine_chunks(),
            pa.LargeListArray.from_arrays(offsets, pa.array(encoded["item"].to_numpy()[kept])),
            pa.LargeListArray.from_arrays(offsets, pa.array(encoded["timestamp"].to_numpy()[kept])),
        ],
        schema=SEQUENCES_SCHEMA,
    )


def _mark_kept(encoded: pa.Table, alive: np.ndarray, min_user: int) -> np.ndarray:
    user = encoded["user"].to_numpy()
    kept = alive[encoded["item"].to_numpy()]
    counts = np.bincount(user[kept], minlength=user[-1] + 1 if len(user) else 0)
    return kept & (counts >= min_user)[user]


def _codes(values: pa.ChunkedArray) -> tuple[np.ndarray, pa.Array]:
    encoded = values.combine_chunks().dictionary_encode()
    return encoded.indices.to_numpy(), encoded.dictionary
