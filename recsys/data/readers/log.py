"""The interaction log as parts that are parsed independently of each other.

However the log is stored, a part is parsed into tables of `LOG_SCHEMA`. A row that cannot be parsed is not raised but
kept, with null ids and a `problem`, so that all of them can be counted before anything is written.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys import storage
from recsys.data.config import DataConfig
from recsys.data.ids import flatten, is_text, normal_ids
from recsys.data.readers.times import TimeUnit, instants, numbers

LOG_SCHEMA = pa.schema(
    [
        ("user_id", pa.string()),
        ("item_id", pa.string()),
        ("timestamp", pa.int64()),  # nanoseconds since 1970
        ("row", pa.int64()),  # ascending in the order of the source; see `PART_ROWS`
        ("problem", pa.string()),  # null for a good row; the sentence for the first bad row of a table, else ""
    ]
)
PART_ROWS = 1 << 40  # row = part × PART_ROWS + record within the part
UNREADABLE = -1
PART_BYTES = 32 << 20
_INLINE_BYTES = 64 << 20


@dataclass(frozen=True)
class Columns:
    """Which column plays which part; None where there is none (or, for ratings, where nobody asks for one)."""

    user: str
    item: str
    timestamp: str | None
    rating: str | None = None

    def names(self) -> list[str]:
        return [name for name in (self.user, self.item, self.timestamp, self.rating) if name is not None]


@dataclass(frozen=True)
class Rules:
    """What is asked of the values.

    Attributes:
        min_rating: rows rated lower are left out.
        time_unit: see `recsys.data.readers.times`.
        encoding: of text; `auto` tells it by a file's bytes.
    """

    min_rating: float | None = None
    time_unit: TimeUnit = "auto"
    encoding: str = "auto"

    @classmethod
    def of(cls, config: DataConfig) -> "Rules":
        return cls(config.min_rating, config.time_unit, config.encoding)


AS_IT_IS = Rules()


@dataclass(frozen=True)
class Part:
    """A piece of the log: bytes [start, end) of a text file, or row groups [start, end) of a Parquet file.

    Attributes:
        size: in bytes, about; of a compressed file when it is unpacked.
        content: the whole file, where it is small and lies on this machine: it travels with the part, so that the other
            nodes of a cluster need not see the path.
    """

    index: int
    path: str
    start: int
    end: int
    size: int
    content: bytes | None = None


class InteractionLog(Protocol):
    """A log in some format."""

    def parts(self) -> list[Part]:
        """The parts in the order of the source, at least one, the same however many workers parse them."""
        ...

    def parse(self, part: Part) -> Iterator[pa.Table]:
        """The rows of one part as tables of `LOG_SCHEMA`; memory in proportion to `PART_BYTES`."""
        ...

    def remarks(self) -> tuple[str, ...]:
        """What a person should know of how it is read; lines."""
        ...

    def where(self, row: int) -> str:
        """Where a `row` stands in the source, for people: `line 17`."""
        ...


def with_content(parts: list[Part]) -> list[Part]:
    """Parts of a small file on a local disk, with the file's bytes aboard."""
    path = parts[0].path if parts else "://"
    if "://" in path:
        return parts
    with open_file(path) as file:
        if file.size() > _INLINE_BYTES:
            return parts
        content = file.read()
    return [replace(part, content=content) for part in parts]


def open_file(path: str, content: bytes | None = None) -> Any:
    """A file (or its content) for reading at any place, as it is: nothing is decompressed by its name."""
    if content is not None:
        return pa.BufferReader(content)
    system, inside = storage.filesystem(path)
    return system.open_input_file(inside)


def report_unreadable(path: str, error: Exception) -> pa.Table:
    """One row that says that a file cannot be read (on): `row` is `UNREADABLE`, whatever the limit for bad rows."""
    problem = f"{path} cannot be read: {' '.join(str(error).split())}"
    values = {"user_id": None, "item_id": None, "timestamp": None, "row": UNREADABLE, "problem": problem}
    return pa.Table.from_pylist([values], schema=LOG_SCHEMA)


def normalise(raw: pa.Table, columns: Columns, row: np.ndarray, rules: Rules) -> pa.Table:
    """Turn columns of any type into `LOG_SCHEMA`; rows rated below the minimum and wholly empty rows are left out.

    Args:
        row: [rows] int64, the key of each row.
    """
    raw = raw.combine_chunks()
    user, item = normal_ids(raw[columns.user]), normal_ids(raw[columns.item])
    if columns.timestamp is None:
        timestamp, timestamp_empty = pa.array(np.zeros(len(raw), np.int64)), pa.array(np.ones(len(raw), bool))
    else:
        timestamp = instants(raw[columns.timestamp], rules.time_unit)
        timestamp_empty = _empty(raw[columns.timestamp])
    no_user, no_item = pc.equal(user, ""), pc.equal(item, "")
    blank = pc.and_(pc.and_(no_user, no_item), timestamp_empty)
    bad = pc.or_(pc.or_(no_user, no_item), pc.is_null(timestamp))
    kept = pc.invert(blank)
    if rules.min_rating is not None:
        assert columns.rating is not None
        rating = numbers(raw[columns.rating])
        unrated = pc.is_null(rating)
        bad = pc.or_(bad, unrated)
        kept = pc.and_(kept, pc.or_(bad, pc.fill_null(pc.greater_equal(rating, rules.min_rating), False)))
    bad = pc.and_(bad, pc.invert(blank))
    problem = pa.nulls(len(raw), pa.string())
    if pc.any(bad).as_py():
        first = pc.index(bad, True).as_py()
        values = ", ".join(f"{name}={_show(raw[name][first])}" for name in columns.names())
        texts = np.where(np.arange(len(raw)) == first, values, "")
        problem = pc.if_else(bad, pa.array(texts, pa.string()), problem)
    nothing = pa.scalar(None, pa.string())
    table = pa.table(
        [pc.if_else(bad, nothing, user), pc.if_else(bad, nothing, item), timestamp, pa.array(row), problem],
        schema=LOG_SCHEMA,
    )
    return table if pc.all(kept).as_py() else table.filter(kept)


def _show(value: pa.Scalar) -> str:
    """A value for people, as short as it may be."""
    try:
        return repr(value.as_py())
    except (ValueError, OverflowError):  # text that is not UTF-8, a date that Python does not know
        return f"<{value.type}>"


def _empty(values: pa.ChunkedArray) -> pa.Array:
    array = flatten(values)
    return pc.equal(pc.fill_null(array, ""), "") if is_text(array.type) else pc.is_null(array)
