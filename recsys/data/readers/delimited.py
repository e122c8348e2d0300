"""Delimited text, plain or gzip: MovieLens, RecBole and generic tables are all parsed here, by pyarrow."""

import codecs
import csv
import io
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from recsys.data.readers.log import (
    AS_IT_IS,
    LOG_SCHEMA,
    PART_BYTES,
    PART_ROWS,
    Columns,
    Part,
    Rules,
    normalise,
    open_file,
    report_unreadable,
)
from recsys.data.readers.records import MARK, EncodingTally, record_chunks, record_ends, require_narrow, to_utf8
from recsys.errors import UserError

_GZIP_RATIO = 4  # what gzip makes of such logs, roughly


@dataclass(frozen=True)
class Dialect:
    """How a text table is written.

    Attributes:
        delimiter: one character, or `::`.
        quoted: whether `"` quotes a value; titles hold quotes, so most formats have none.
        names: the columns of a file without a header line; None reads the header.
        typed: header names carry a type, `user_id:token` (RecBole).
    """

    delimiter: str
    quoted: bool = False
    names: tuple[str, ...] | None = None
    typed: bool = False

    @property
    def quote_of(self) -> str | None:
        """The delimiter of a table with quotes (they open behind it), else None."""
        return self.delimiter if self.quoted else None


@dataclass(frozen=True)
class Layout:
    """What a pass over a log finds out: its encoding, and the bytes at which parts begin, the end included."""

    encoding: str
    bounds: tuple[int, ...]
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class DelimitedLog:
    """An interaction log in a text file; parts begin with records, a gzip file is one part.

    Attributes:
        names: all columns of the file.
        header_bytes: where the rows begin.
    """

    path: str
    dialect: Dialect
    names: tuple[str, ...]
    header_bytes: int
    columns: Columns
    rules: Rules = AS_IT_IS
    part_bytes: int = PART_BYTES

    @classmethod
    def open(cls, path: str, dialect: Dialect, columns: Columns, rules: Rules) -> "DelimitedLog":
        """
        Raises:
            UserError: a column is not there.
        """
        names, start = read_header(path, dialect, rules.encoding)
        require(path, names, columns.names())
        return cls(path, dialect, tuple(names), start, columns, rules)

    def parts(self) -> list[Part]:
        bounds = self.layout.bounds
        if is_gzip(self.path):
            with open_file(self.path) as stream:
                return [Part(0, self.path, start=0, end=0, size=_GZIP_RATIO * stream.size())]
        return [Part(i, self.path, start=a, end=b, size=b - a) for i, (a, b) in enumerate(itertools.pairwise(bounds))]

    @cached_property
    def layout(self) -> Layout:
        """Found out once, where the parts are made, and sent along with the log.

        Raises:
            UserError: a quote is never closed.
        """
        if self.rules.encoding != "auto" and not self.dialect.quoted:
            return Layout(self.rules.encoding, () if is_gzip(self.path) else self._bounds())
        bounds, tally = [self.header_bytes], EncodingTally()
        try:
            with open_stream(self.path) as stream:
                line = 1 + _lines(stream.read(self.header_bytes))
                for chunk in record_chunks(stream, self.part_bytes, self.dialect.quote_of, line=line):
                    bounds.append(bounds[-1] + len(chunk))
                    if self.rules.encoding == "auto":
                        tally.add(chunk)
        except UserError as error:
            raise UserError(f"{self.path} cannot be read: {error}") from None
        except OSError as error:
            raise UserError(f"{self.path} cannot be read: {error}") from None
        if len(bounds) == 1:
            bounds.append(bounds[0])
        if self.rules.encoding != "auto":
            return Layout(self.rules.encoding, tuple(bounds))
        return Layout(tally.encoding, tuple(bounds), tuple(tally.remark(self.path)))

    def _bounds(self) -> tuple[int, ...]:
        """Line ends every `part_bytes`, looked for where they should be."""
        with open_file(self.path) as stream:
            size, bounds = stream.size(), [self.header_bytes]
            while bounds[-1] + self.part_bytes < size:
                bounds.append(_line_after(stream, bounds[-1] + self.part_bytes))
        return (bounds[0], *(bound for bound in bounds[1:] if bound < size), size)

    def remarks(self) -> tuple[str, ...]:
        return self.layout.remarks

    def parse(self, part: Part) -> Iterator[pa.Table]:
        record = part.index * PART_ROWS
        try:
            with self._open(part) as stream:
                for chunk in record_chunks(stream, self.part_bytes, self.dialect.quote_of):
                    parsed = parse_text(chunk, self.dialect, self.names, self.columns.names(), self.layout.encoding)
                    yield normalise(parsed.table, self.columns, record + parsed.rows, self.rules)
                    if parsed.bad:
                        yield misshapen(parsed.bad, record)
                    record += parsed.count
        except (OSError, pa.ArrowException) as error:
            yield report_unreadable(part.path, error)

    def where(self, row: int) -> str:
        index, record = divmod(row, PART_ROWS)
        line, before = 1, self.parts()[index].start or self.header_bytes
        with open_stream(self.path) as stream:
            while before and (block := stream.read(min(before, PART_BYTES))):
                before -= len(block)
                line += _lines(block)
            for chunk in record_chunks(stream, self.part_bytes, self.dialect.quote_of):
                ends = record_ends(chunk, self.dialect.quote_of)
                if record <= len(ends):
                    return f"line {line + (_lines(chunk[: ends[record - 1]]) if record else 0)}"
                record -= len(ends)
                line += _lines(chunk)
        return f"line {line}"

    def _open(self, part: Part) -> IO[bytes]:
        """The rows of a part as a stream of decompressed bytes."""
        if is_gzip(part.path):
            stream = open_stream(part.path, part.content)
            stream.read(self.header_bytes)
            return stream
        if part.content is not None:
            return io.BytesIO(part.content[part.start : part.end])
        with open_file(part.path) as file:
            return io.BytesIO(file.read_at(part.end - part.start, part.start))


@dataclass(frozen=True)
class Items:
    """A catalogue file as it stands: the asked columns, how many rows are no good, where the first of them stands, and
    what a person should know."""

    table: pa.Table
    bad: int = 0
    first: str = ""
    remarks: tuple[str, ...] = ()


def read_table(path: str, dialect: Dialect, columns: list[str], encoding: str = "auto") -> Items:
    """A whole (catalogue) file as strings.

    Raises:
        UserError: a column is not there, or a quote is never closed.
    """
    try:
        names, start = read_header(path, dialect, encoding)
        with open_stream(path) as stream:
            content = stream.read()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    require(path, names, columns)
    line, content, tally = 1 + _lines(content[:start]), content[start:], EncodingTally()
    if encoding == "auto":
        tally.add(content)
        encoding = tally.encoding
    try:
        if dialect.quoted:
            list(record_chunks(io.BytesIO(content), len(content) + 1, dialect.quote_of, line=line))
        parsed = parse_text(content, dialect, names, columns, encoding)
    except UserError as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    except pa.ArrowException as error:
        raise UserError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
    first = ""
    if parsed.bad:
        ends, record = record_ends(content, dialect.quote_of), min(parsed.bad)[0]
        before = content[: ends[record - 1]] if record else b""
        first = f"line {line + _lines(before)}"
    return Items(parsed.table, len(parsed.bad), first, tuple(tally.remark(path)))


def read_header(path: str, dialect: Dialect, encoding: str = "auto") -> tuple[list[str], int]:
    """Column names, and the byte of the (decompressed) file at which the rows begin.

    Raises:
        UserError: the file is UTF-16.
    """
    head, ends = b"", np.zeros(0, np.int64)
    with open_stream(path) as stream:
        while not len(ends) and (more := stream.read(4096)):
            head += more
            ends = record_ends(head, dialect.quote_of)
    require_narrow(path, head[:4096])
    if dialect.names:
        return list(dialect.names), 0
    size = int(ends[0]) if len(ends) else len(head)
    line = head[:size].removeprefix(codecs.BOM_UTF8)
    if encoding == "auto":
        tally = EncodingTally()
        tally.add(line)
        encoding = tally.encoding
    text = to_utf8(line, encoding)[0].decode().rstrip("\r\n")
    if dialect.quoted:
        names = next(csv.reader([text], delimiter=dialect.delimiter), [])
    else:
        names = text.split(dialect.delimiter)
    if dialect.typed:
        names = [name.rpartition(":")[0] or name for name in names]
    return names, size


def require(path: str, names: Sequence[str], wanted: list[str]) -> None:
    """Refuse a table without the columns that are asked for, or with two of a name."""
    file = path.rpartition("/")[2]
    missing = [name for name in wanted if name not in names]
    if missing:
        raise UserError(
            f"{file} has no column {', '.join(map(repr, missing))}; its columns are {', '.join(map(repr, names))}"
        )
    twice = [name for name in wanted if names.count(name) > 1]
    if twice:
        raise UserError(f"{file} has more than one column {twice[0]!r}; rename the one that is not meant")


@dataclass(frozen=True)
class Parsed:
    """Records of a text.

    Attributes:
        table: the asked columns of good records, as strings.
        rows: [rows] int64, the number (from 0) of each among all records.
        bad: number and fault of those that are no good.
        count: of all records, blank lines included.
    """

    table: pa.Table
    rows: np.ndarray
    bad: list[tuple[int, str]]
    count: int


def parse_text(data: bytes, dialect: Dialect, names: Sequence[str], columns: list[str], encoding: str) -> Parsed:
    """Parse whole records."""
    bad: list[tuple[int, str]] = []
    blank: list[int] = []

    def skip(row: Any) -> str:
        if row.text.strip():
            bad.append((row.number - 1, f"not as many values as there are columns: {row.text.replace(MARK, '?')!r}"))
        else:
            blank.append(row.number - 1)
        return "skip"

    delimiter = dialect.delimiter
    data, marked = to_utf8(data, encoding)
    if len(delimiter) > 1:
        data, delimiter = data.replace(delimiter.encode(), b"\x1f"), "\x1f"
    if not data:
        return Parsed(pa.table({name: pa.array([], pa.string()) for name in columns}), np.zeros(0, np.int64), [], 0)
    # By number, as the file may have several columns of a name; all of them where one may hold a mark.
    numbered = [str(number) for number in range(len(names))]
    asked = [str(names.index(name)) for name in columns]
    included = numbered if marked else asked
    table = pa.csv.read_csv(
        pa.BufferReader(data),
        # One thread: only then are rows numbered, and parts are what runs in parallel.
        pa.csv.ReadOptions(column_names=numbered, use_threads=False, block_size=min(len(data) + 1, 1 << 30)),
        pa.csv.ParseOptions(
            delimiter=delimiter,
            quote_char='"' if dialect.quoted else False,
            newlines_in_values=dialect.quoted and b'"' in data,
            ignore_empty_lines=False,
            invalid_row_handler=skip,
        ),
        pa.csv.ConvertOptions(include_columns=included, column_types=dict.fromkeys(included, pa.string())),
    )
    count = len(table) + len(bad) + len(blank)
    rows = np.arange(count, dtype=np.int64)
    left_out = [row for row, _ in bad] + blank
    rows = np.delete(rows, left_out) if left_out else rows
    if marked:
        broken = np.zeros(len(table), dtype=bool)
        for column in table.columns:
            broken |= pc.match_substring(column, MARK).to_numpy()
        bad += [(row, f"bytes that are not {encoding}") for row in rows[broken].tolist()]
        table, rows = table.filter(pa.array(~broken)), rows[~broken]
    return Parsed(table.select(asked).rename_columns(columns), rows, bad, count)


def is_gzip(path: str) -> bool:
    return path.lower().endswith(".gz")


def misshapen(bad: list[tuple[int, str]], first: int) -> pa.Table:
    """Records that are no good, as rows with a problem."""
    bad = sorted(bad)
    empty = pa.nulls(len(bad), pa.string())
    rows = pa.array([first + record for record, _ in bad], pa.int64())
    problems = [bad[0][1], *[""] * (len(bad) - 1)]
    return pa.table([empty, empty, pa.nulls(len(bad), pa.int64()), rows, problems], schema=LOG_SCHEMA)


def _lines(data: bytes) -> int:
    return len(record_ends(data, None))


def open_stream(path: str, content: bytes | None = None) -> Any:
    """The whole file from its beginning, decompressed."""
    file = open_file(path, content)
    return pa.CompressedInputStream(file, "gzip") if is_gzip(path) else file


def _line_after(stream: Any, offset: int) -> int:
    """The byte after the first line break at or after `offset`."""
    while block := stream.read_at(1 << 16, offset):
        position = block.find(b"\n")
        if position >= 0:
            return offset + position + 1
        offset += len(block)
    return offset
