"""Amazon reviews as McAuley's group publishes them: 2014, 2018 and 2023, a record a line, plain or gzip.

Records are JSON, and in the metadata and the complete categories of 2014 Python literals (`{'asin': '0001', …}`), which
are read as values and never run (`ast.literal_eval`). The first record says the year:

    2014, 2018   reviewerID, asin, unixReviewTime, overall;        metadata: asin, title, brand, categories or category
    2023         user_id, parent_asin, timestamp (ms), rating;     metadata: parent_asin, title, store, categories

Brand (of 2023 the store) and categories are kept as attributes.
"""

import ast
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from recsys.data.attributes import split_values
from recsys.data.config import DataConfig
from recsys.data.ids import normal_ids
from recsys.data.readers.delimited import DelimitedLog, Dialect, misshapen, open_stream
from recsys.data.readers.log import PART_BYTES, PART_ROWS, Columns, Part, Rules, normalise, report_unreadable
from recsys.data.readers.records import EncodingTally, record_chunks, record_ends, require_narrow
from recsys.data.readers.source import ITEMS_SCHEMA, Source
from recsys.errors import UserError

LAYOUTS = {
    "2014 or 2018": Columns("reviewerID", "asin", "unixReviewTime", "overall"),
    "2023": Columns("user_id", "parent_asin", "timestamp", "rating"),
}
_ITEM, _BRAND, _CATEGORIES = ("parent_asin", "asin"), ("brand", "store"), ("categories", "category")
_LINES = Dialect("\x1f")  # a record is a line, quotes are plain characters
_LONGEST = 1 << 20  # of a Python literal: what is longer is no record
_SURROGATE = re.compile("[\ud800-\udfff]")
# In the metadata of 2018 the title of some items is the script of the page instead.
_SCRIPT = "getTime"


def open_amazon(path: str, config: DataConfig) -> Source:
    """Reviews at `path`, metadata at `data.items_path`.

    Raises:
        UserError: the first record of a file is not one of these.
    """
    columns = _columns(path)
    rules = Rules.of(config)
    if config.min_rating is None:
        columns = replace(columns, rating=None)
    log = RecordLog(path, _LINES, (), 0, columns, rules)
    if config.items_path is None:
        return Source(log=log, items=None)
    try:
        return replace(_read_items(config.items_path, config.encoding), log=log)
    except OSError as error:
        raise UserError(f"{config.items_path} cannot be read: {error}") from None


def read_record(line: str) -> dict[str, Any]:
    """A line of JSON or, where it is none, a dictionary as Python writes it.

    Raises:
        ValueError: it is neither.
    """
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        if len(line) > _LONGEST or not line.startswith("{"):
            raise ValueError("it is neither JSON nor a Python dictionary") from None
        try:
            record = ast.literal_eval(line)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            raise ValueError("it is neither JSON nor a Python dictionary") from None
    if not isinstance(record, dict):
        raise ValueError("it is no record of fields")
    return record


@dataclass(frozen=True)
class RecordLog(DelimitedLog):
    """An interaction log of a record a line."""

    def parse(self, part: Part) -> Iterator[pa.Table]:
        number = part.index * PART_ROWS
        try:
            with self._open(part) as stream:
                for chunk in record_chunks(stream, self.part_bytes, None):
                    good, rows, bad, count = _records(chunk, self.layout.encoding)
                    fields = {name: [_plain(record.get(name)) for record in good] for name in self.columns.names()}
                    table = pa.table({name: pa.array(values, pa.string()) for name, values in fields.items()})
                    yield normalise(table, self.columns, number + rows, self.rules)
                    if bad:
                        yield misshapen(bad, number)
                    number += count
        except OSError as error:
            yield report_unreadable(part.path, error)


def _records(data: bytes, encoding: str) -> tuple[list[dict[str, Any]], np.ndarray, list[tuple[int, str]], int]:
    """The records of whole lines, the number (from 0) of each among all lines, number and fault of lines that hold
    none, and how many lines there are."""
    ends = record_ends(data, None).tolist()
    if not ends or ends[-1] < len(data):
        ends.append(len(data))
    good, rows, bad, begin = [], [], [], 0
    for number, end in enumerate(ends):
        line, begin = data[begin:end].decode(encoding, errors="surrogateescape").strip("\r\n \ufeff"), end
        if not line:
            continue
        try:
            good.append(read_record(line))
            rows.append(number)
        except ValueError as error:
            shown = _SURROGATE.sub("?", line)
            bad.append((number, f"{error}: {shown[:60]!r}"))
    return good, np.array(rows, dtype=np.int64), bad, len(ends)


def _plain(value: Any) -> str | None:
    """Text or a number as text; nothing for other values and for text with bytes that are not of the encoding."""
    if isinstance(value, str):
        return None if _SURROGATE.search(value) else value
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _columns(path: str) -> Columns:
    """The fields of the year that the first record is of."""
    record = _first(path)
    for columns in LAYOUTS.values():
        if {columns.user, columns.item, columns.timestamp} <= record.keys():
            return columns
    fields = "; ".join(f"{year}: {c.user}, {c.item}, {c.timestamp}" for year, c in LAYOUTS.items())
    raise UserError(
        f"{path.rpartition('/')[2]} holds no Amazon reviews: its first record has the fields "
        f"{', '.join(map(repr, record)) or 'none'}, but reviews have ({fields})"
    )


def _first(path: str) -> dict[str, Any]:
    """The first record.

    Raises:
        UserError: there is none, or the first line is none.
    """
    with open_stream(path) as stream:
        for chunk in record_chunks(stream, 1 << 16, None):
            require_narrow(path, chunk[:4096])
            good, _, bad, _ = _records(chunk, "utf-8")
            if good and not (bad and bad[0][0] == 0):
                return good[0]
            if bad:
                raise UserError(
                    f"{path} holds no Amazon reviews: of line {bad[0][0] + 1}, {bad[0][1]}; name a file with a JSON "
                    "record a line"
                )
    raise UserError(f"{path} holds no records")


def _read_items(path: str, encoding: str) -> Source:
    """The catalogue of a metadata file; its log is to be replaced."""
    chosen, remarks = encoding, []
    if encoding == "auto":
        tally = EncodingTally()
        with open_stream(path) as stream:
            for chunk in record_chunks(stream, PART_BYTES, None):
                tally.add(chunk)
        chosen, remarks = tally.encoding, tally.remark(path)
    ids: list[str | None] = []
    titles: list[str | None] = []
    attributes: dict[str, list[list[str]]] = {"brand": [], "categories": []}
    faults, first, lines = 0, "", 0
    with open_stream(path) as stream:
        for chunk in record_chunks(stream, PART_BYTES, None):
            good, _, bad, count = _records(chunk, chosen)
            if bad and not faults:
                first = f"line {lines + bad[0][0] + 1}"
            faults, lines = faults + len(bad), lines + count
            for record in good:
                title = _plain(record.get("title"))
                ids.append(next((found for name in _ITEM if (found := _plain(record.get(name)))), None))
                titles.append(None if title and _SCRIPT in title else title)
                attributes["brand"].append(_texts(record.get(name) for name in _BRAND))
                attributes["categories"].append(_texts(record.get(name) for name in _CATEGORIES))
    if ids and not any(ids):
        raise UserError(f"{path.rpartition('/')[2]} holds no Amazon metadata: its records have no asin or parent_asin")
    return Source(
        log=RecordLog(path, _LINES, (), 0, LAYOUTS["2023"]),
        items=pa.table([normal_ids(pa.array(ids, pa.string())), pa.array(titles, pa.string())], schema=ITEMS_SCHEMA),
        bad_items=(faults, first),
        attributes={name: split_values(pa.array(values, pa.list_(pa.string()))) for name, values in attributes.items()},
        remarks=tuple(remarks),
    )


def _texts(values: Iterable[Any]) -> list[str]:
    """The texts among values, and in lists of them at any depth."""
    found: list[str] = []
    for value in values:
        if isinstance(value, list | tuple):
            found += _texts(value)
        elif isinstance(value, str) and not _SURROGATE.search(value):
            found.append(value)
    return found
