"""Recommendations for many users at once, as a table.

Legend: U users, N items.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recsys import storage
from recsys.data.ids import flatten, is_text, normal_ids, require_ids
from recsys.data.prepared import PreparedDataset
from recsys.data.readers.table import read_columns
from recsys.errors import UserError
from recsys.serving.recommender import Recommendation, Recommender, popular

SCHEMA = pa.schema(
    [
        ("user", pa.string()),
        ("items", pa.list_(pa.string())),
        ("scores", pa.list_(pa.float32())),
        ("fallback", pa.bool_()),
        ("checkpoint", pa.string()),
    ]
)
"""A row per user: catalogue ids, best first, and their scores; whether they are the most popular items because no item
of the history was known; the hash of the checkpoint."""

LISTED_SCHEMA = pa.schema([("user", pa.string()), ("history", pa.list_(pa.string()))])


@dataclass(frozen=True)
class Users:
    """Some users.

    Attributes:
        histories: catalogue ids, oldest first; may be empty.
        times: when each item was met, in seconds; None where that is not known.
    """

    ids: Sequence[str]
    histories: Sequence[Sequence[str]]
    times: Sequence[Sequence[int]] | None = None


class UserSource(Protocol):
    """All users, in a fixed order."""

    def read(self, first: int, last: int) -> Users:
        """Those from `first` to before `last`."""


class StoredUsers:
    """The users of a prepared dataset with everything they met, what was held out for tests included."""

    def __init__(self, dataset: PreparedDataset) -> None:
        self._dataset = dataset

    def read(self, first: int, last: int) -> Users:
        data, users = self._dataset, range(first, last)
        histories = [data.sequence_ids(user) for user in users]
        times = [data.timestamps[data.sequence(user)].tolist() for user in users]
        return Users(data.user_ids[first:last], histories, times)


class ListedUsers:
    """The users of a Parquet file of `LISTED_SCHEMA`, of which the row groups that are asked for are read."""

    def __init__(self, uri: str) -> None:
        system, path = storage.filesystem(uri)
        self._file = pq.ParquetFile(system.open_input_file(path))

    def read(self, first: int, last: int) -> Users:
        groups, begin, skipped = [], 0, 0
        for group in range(self._file.num_row_groups):
            end = begin + self._file.metadata.row_group(group).num_rows
            if end <= first:
                skipped = end
            elif begin < last:
                groups.append(group)
            begin = end
        table = self._file.read_row_groups(groups).slice(first - skipped, last - first)
        return Users(table["user"].to_pylist(), table["history"].to_pylist())


def read_users(path: str) -> pa.Table:
    """Users and histories of a file (CSV or TSV, also gzipped, or Parquet) as `LISTED_SCHEMA`, read whole.

    A history is a list of ids, oldest first, or text with blanks between the ids.

    Raises:
        UserError: the file or a column is not there, or holds something else.
    """
    read = read_columns(path, ["user", "history"])
    if read.bad:
        raise UserError(
            f"{path}: {read.bad} rows have not as many values as there are columns, the first is {read.first}"
        )
    history = flatten(read.table["history"])
    if is_text(history.type):
        history = pc.utf8_split_whitespace(pc.utf8_trim_whitespace(history))
    if not (pa.types.is_list(history.type) or pa.types.is_large_list(history.type)):
        raise UserError(f"column 'history' of {path} is of type {history.type}; give lists of ids, or text with blanks")
    require_ids(path, "user", read.table.schema.field("user").type)
    require_ids(path, "history", history.type.value_type)
    lists = history.cast(pa.large_list(history.type.value_type))
    known = normal_ids(pc.list_flatten(lists))
    lengths = pc.fill_null(pc.list_value_length(lists), 0)
    offsets = pa.concat_arrays([pa.array([0], pa.int64()), pc.cumulative_sum(pc.cast(lengths, pa.int64()))])
    lists = pa.LargeListArray.from_arrays(offsets, known)
    return pa.table([normal_ids(read.table["user"]), lists], names=LISTED_SCHEMA.names).cast(LISTED_SCHEMA)


def recommend_table(
    recommender: Recommender, users: Users, k: int, *, mask_seen: bool = True, batch_size: int = 256
) -> pa.Table:
    """The `k` best items of every user as a table of `SCHEMA`, one pass of the model per batch.

    Users with histories of similar length are read together, so that little padding is computed. Memory: batch_size · N
    scores.

    Args:
        mask_seen: never recommend an item of the history.

    Raises:
        UserError: k is not within 1..N.
    """
    answers: list[Recommendation] = [popular(recommender.catalogue, (), k)] * len(users.ids)
    lengths = [len(history) for history in users.histories]
    order = sorted((row for row, length in enumerate(lengths) if length), key=lengths.__getitem__)
    for begin in range(0, len(order), batch_size):
        batch = order[begin : begin + batch_size]
        times = None if users.times is None else [users.times[row] for row in batch]
        histories = [users.histories[row] for row in batch]
        for row, answer in zip(batch, recommender.rank(histories, k, mask_seen=mask_seen, times=times), strict=True):
            answers[row] = answer
    columns: list[Any] = [
        users.ids,
        [answer.items for answer in answers],
        [answer.scores for answer in answers],
        [answer.fallback for answer in answers],
        [recommender.checkpoint.hash] * len(answers),
    ]
    return pa.table(columns, schema=SCHEMA)
