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

LOG_SCHEMA = pa.schema(
    [
        ("user_id", pa.string()),
        ("item_id", pa.string()),
        ("timestamp", pa.int64()),
        ("row", pa.int64()),  # ascending in the order of the source; see `PART_ROWS`
        ("problem", pa.string()),  # null for a good row; the sentence for the first bad row of a table, else ""
    ]
)
PART_ROWS = 1 << 40  # row = part × PART_ROWS + line within the part
UNREADABLE = -1
PART_BYTES = 32 << 20
_INLINE_BYTES = 64 << 20
_DATE_FORMATS = ("%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%d")


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


def unreadable(path: str, error: Exception) -> pa.Table:
    """One row that says that a file cannot be read (on): `row` is `UNREADABLE`, whatever the limit for bad rows."""
    problem = f"{path} cannot be read: {' '.join(str(error).split())}"
    values = {"user_id": None, "item_id": None, "timestamp": None, "row": UNREADABLE, "problem": problem}
    return pa.Table.from_pylist([values], schema=LOG_SCHEMA)


def normalise(raw: pa.Table, columns: Columns, row: np.ndarray, min_rating: float | None) -> pa.Table:
    """Turn columns of any type into `LOG_SCHEMA`; rows rated below `min_rating` and wholly empty rows are left out.

    Args:
        row: [rows] int64, the key of each row.
    """
    raw = raw.combine_chunks()
    user, item = _ids(raw[columns.user]), _ids(raw[columns.item])
    if columns.timestamp is None:
        timestamp, timestamp_empty = pa.array(np.zeros(len(raw), np.int64)), pa.array(np.ones(len(raw), bool))
    else:
        timestamp, timestamp_empty = seconds(raw[columns.timestamp]), _empty(raw[columns.timestamp])
    no_user, no_item = pc.equal(user, ""), pc.equal(item, "")
    blank = pc.and_(pc.and_(no_user, no_item), timestamp_empty)
    bad = pc.or_(pc.or_(no_user, no_item), pc.is_null(timestamp))
    kept = pc.invert(blank)
    if min_rating is not None:
        assert columns.rating is not None
        rating = _numbers(raw[columns.rating])
        unrated = pc.is_null(rating)
        bad = pc.or_(bad, unrated)
        kept = pc.and_(kept, pc.or_(bad, pc.fill_null(pc.greater_equal(rating, min_rating), False)))
    bad = pc.and_(bad, pc.invert(blank))
    problem = pa.nulls(len(raw), pa.string())
    if pc.any(bad).as_py():
        first = pc.index(bad, True).as_py()
        values = ", ".join(f"{name}={raw[name][first].as_py()!r}" for name in columns.names())
        texts = np.where(np.arange(len(raw)) == first, values, "")
        problem = pc.if_else(bad, pa.array(texts, pa.string()), problem)
    nothing = pa.scalar(None, pa.string())
    table = pa.table(
        [pc.if_else(bad, nothing, user), pc.if_else(bad, nothing, item), timestamp, pa.array(row), problem],
        schema=LOG_SCHEMA,
    )
    return table if pc.all(kept).as_py() else table.filter(kept)


def seconds(values: pa.ChunkedArray) -> pa.Array:
    """Times as int64: whole numbers as they are, fractions dropped, dates as seconds since 1970; null if neither."""
    values = _combine(values)
    if pa.types.is_temporal(values.type):
        instants = pc.cast(values, pa.timestamp("us"), safe=False)
        return pc.cast(pc.cast(instants, pa.timestamp("s"), safe=False), pa.int64())
    if pa.types.is_integer(values.type):
        return pc.cast(values, pa.int64())
    if pa.types.is_floating(values.type):
        return _whole(values)
    text = pc.utf8_trim_whitespace(pc.cast(values, pa.string()))
    whole = pc.match_substring_regex(text, r"^[+-]?\d{1,18}$")
    nothing = pa.scalar(None, pa.string())
    result = pc.cast(pc.if_else(whole, text, nothing), pa.int64())
    if result.null_count:
        result = pc.coalesce(result, _whole(_numbers(text)))
    if result.null_count > text.null_count:
        for form in _DATE_FORMATS:
            parsed = pc.strptime(text, format=form, unit="s", error_is_null=True)
            result = pc.coalesce(result, pc.cast(parsed, pa.int64()))
    return result


def _whole(numbers: pa.Array) -> pa.Array:
    finite = pc.and_(pc.is_finite(numbers), pc.less(pc.abs(numbers), 2.0**62))
    return pc.cast(pc.floor(pc.if_else(finite, numbers, pa.scalar(None, pa.float64()))), pa.int64())


def _numbers(values: pa.ChunkedArray | pa.Array) -> pa.Array:
    """float64, null where it is no number."""
    values = _combine(values)
    if pa.types.is_integer(values.type) or pa.types.is_floating(values.type):
        return pc.cast(values, pa.float64())
    text = pc.utf8_trim_whitespace(pc.cast(values, pa.string()))
    number = pc.match_substring_regex(text, r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?$")
    return pc.cast(pc.if_else(number, text, pa.scalar(None, pa.string())), pa.float64())


def _ids(values: pa.ChunkedArray) -> pa.Array:
    """Ids as strings, "" where missing; whole floats (what pandas makes of integers with gaps) lose their `.0`."""
    values = _combine(values)
    if pa.types.is_floating(values.type):
        values = _whole(values)
    return pc.fill_null(pc.cast(values, pa.string()), "")


def _empty(values: pa.ChunkedArray) -> pa.Array:
    values = _combine(values)
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        return pc.equal(pc.fill_null(values, ""), "")
    return pc.is_null(values)


def _combine(values: pa.ChunkedArray | pa.Array) -> pa.Array:
    array = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    if isinstance(array, pa.ChunkedArray):  # an empty chunked array combines to itself in some versions
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], array.type)
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array
