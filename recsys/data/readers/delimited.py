"""Delimited text, plain or gzip: MovieLens, RecBole and generic tables are all parsed here, by pyarrow."""

import codecs
import csv
import io
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.csv

from recsys.data.readers.log import LOG_SCHEMA, PART_BYTES, PART_ROWS, Columns, Part, normalise, open_file, unreadable
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


@dataclass(frozen=True)
class DelimitedLog:
    """An interaction log in a text file; parts begin at line breaks, a gzip file is one part.

    Attributes:
        names: all columns of the file.
        header_bytes: where the rows begin.
    """

    path: str
    dialect: Dialect
    names: tuple[str, ...]
    header_bytes: int
    columns: Columns
    min_rating: float | None = None
    part_bytes: int = PART_BYTES

    @classmethod
    def open(
        cls, path: str, dialect: Dialect, columns: Columns, min_rating: float | None, part_bytes: int = PART_BYTES
    ) -> "DelimitedLog":
        """
        Raises:
            UserError: a column is not there.
        """
        names, start = read_header(path, dialect)
        require(path, names, columns.names())
        return cls(path, dialect, tuple(names), start, columns, min_rating, part_bytes)

    def parts(self) -> list[Part]:
        with open_file(self.path) as stream:
            size, bounds = stream.size(), [self.header_bytes]
            if is_gzip(self.path):
                return [Part(0, self.path, start=0, end=0, size=_GZIP_RATIO * size)]
            while bounds[-1] + self.part_bytes < size:
                bounds.append(_line_after(stream, bounds[-1] + self.part_bytes))
            bounds = [bounds[0], *(bound for bound in bounds[1:] if bound < size), size]
        return [Part(i, self.path, start=a, end=b, size=b - a) for i, (a, b) in enumerate(itertools.pairwise(bounds))]

    def parse(self, part: Part) -> Iterator[pa.Table]:
        line = part.index * PART_ROWS
        try:
            with self._open(part) as stream:
                for chunk in _line_chunks(stream, self.part_bytes):
                    raw, lines, skipped = parse_text(chunk, self.dialect, self.names, self.columns.names())
                    yield normalise(raw, self.columns, line + lines, self.min_rating)
                    if skipped:
                        yield _misshapen(skipped, line)
                    line += chunk.count(b"\n")
        except (OSError, pa.ArrowInvalid) as error:
            yield unreadable(part.path, error)

    def where(self, row: int) -> str:
        index, line = divmod(row, PART_ROWS)
        remaining = self.parts()[index].start
        if remaining:  # the header is among what is counted
            with _stream(self.path) as stream:
                while remaining and (block := stream.read(min(remaining, PART_BYTES))):
                    remaining -= len(block)
                    line += block.count(b"\n")
        elif self.header_bytes:
            line += 1
        return f"line {line + 1}"

    def _open(self, part: Part) -> IO[bytes]:
        """The rows of a part as a stream of decompressed bytes."""
        if is_gzip(part.path):
            stream = _stream(part.path, part.content)
            stream.read(self.header_bytes)
            return stream
        if part.content is not None:
            return io.BytesIO(part.content[part.start : part.end])
        with open_file(part.path) as file:
            return io.BytesIO(file.read_at(part.end - part.start, part.start))


def read_table(path: str, dialect: Dialect, columns: list[str]) -> tuple[pa.Table, int, str]:
    """A whole (catalogue) file as strings.

    Returns:
        the table with `columns`, how many rows had the wrong number of values, and where the first of them stands.
    """
    names, start = read_header(path, dialect)
    require(path, names, columns)
    with _stream(path) as stream:
        content = stream.read()[start:]
    table, _, skipped = parse_text(content, dialect, names, columns, newlines_in_values=dialect.quoted)
    return table, len(skipped), f"line {skipped[0][0] + (2 if start else 1)}" if skipped else ""


def read_header(path: str, dialect: Dialect) -> tuple[list[str], int]:
    """Column names, and the byte of the (decompressed) file at which the rows begin."""
    if dialect.names:
        return list(dialect.names), 0
    with _stream(path) as stream:
        line = b""
        while not line.endswith(b"\n") and (more := stream.read(4096)):
            head, newline, _ = more.partition(b"\n")
            line += head + newline
    text = as_utf8(line.removeprefix(codecs.BOM_UTF8)).decode().rstrip("\r\n")
    if dialect.quoted:
        names = next(csv.reader([text], delimiter=dialect.delimiter), [])
    else:
        names = text.split(dialect.delimiter)
    if dialect.typed:
        names = [name.rpartition(":")[0] or name for name in names]
    return names, len(line)


def require(path: str, names: list[str], wanted: list[str]) -> None:
    """Refuse a table without the columns that are asked for."""
    missing = [name for name in wanted if name not in names]
    if missing:
        raise UserError(
            f"{path.rpartition('/')[2]} has no column {', '.join(map(repr, missing))}; its columns are "
            f"{', '.join(map(repr, names))}"
        )


def parse_text(
    data: bytes, dialect: Dialect, names: Sequence[str], columns: list[str], *, newlines_in_values: bool = False
) -> tuple[pa.Table, np.ndarray, list[tuple[int, str]]]:
    """Parse lines.

    Returns:
        the asked columns as strings; [rows] int64, the line (from 0) of each row; the lines with the wrong number of
        values, as (line, text).
    """
    skipped: list[tuple[int, str]] = []

    def skip(row: Any) -> str:
        if row.text.strip():
            skipped.append((row.number - 1, row.text))
        else:
            blank.append(row.number - 1)
        return "skip"

    blank: list[int] = []
    delimiter = dialect.delimiter
    data = as_utf8(data)
    if len(delimiter) > 1:
        data, delimiter = data.replace(delimiter.encode(), b"\x1f"), "\x1f"
    if not data:
        return pa.table({name: pa.array([], pa.string()) for name in columns}), np.zeros(0, np.int64), []
    table = pa.csv.read_csv(
        pa.BufferReader(data),
        # One thread: only then are rows numbered, and parts are what runs in parallel.
        pa.csv.ReadOptions(column_names=list(names), use_threads=False, block_size=min(len(data) + 1, 1 << 30)),
        pa.csv.ParseOptions(
            delimiter=delimiter,
            quote_char='"' if dialect.quoted else False,
            newlines_in_values=newlines_in_values,
            ignore_empty_lines=False,
            invalid_row_handler=skip,
        ),
        pa.csv.ConvertOptions(include_columns=columns, column_types=dict.fromkeys(columns, pa.string())),
    )
    lines = np.arange(len(table) + len(skipped) + len(blank), dtype=np.int64)
    left_out = [line for line, _ in skipped] + blank
    return table, np.delete(lines, left_out) if left_out else lines, skipped


def as_utf8(data: bytes) -> bytes:
    """UTF-8 as it is; anything else is taken for latin-1, as in the older MovieLens files."""
    if data.isascii():
        return data
    try:
        data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1").encode()
    return data


def is_gzip(path: str) -> bool:
    return path.lower().endswith(".gz")


def _misshapen(skipped: list[tuple[int, str]], first_line: int) -> pa.Table:
    """Rows with the wrong number of values, as rows with a problem."""
    empty = pa.nulls(len(skipped), pa.string())
    rows = pa.array([first_line + line for line, _ in skipped], pa.int64())
    problems = [f"not as many values as there are columns: {skipped[0][1]!r}", *[""] * (len(skipped) - 1)]
    return pa.table([empty, empty, pa.nulls(len(skipped), pa.int64()), rows, problems], schema=LOG_SCHEMA)


def _stream(path: str, content: bytes | None = None) -> Any:
    """The whole file from its beginning, decompressed."""
    file = open_file(path, content)
    return pa.CompressedInputStream(file, "gzip") if is_gzip(path) else file


def _line_chunks(stream: IO[bytes], size: int) -> Iterator[bytes]:
    """Whole lines, about `size` bytes at a time."""
    rest = b""
    while block := stream.read(size):
        head, newline, tail = (rest + block).rpartition(b"\n")
        if newline:
            yield head + newline
        rest = tail
    if rest:
        yield rest


def _line_after(stream: Any, offset: int) -> int:
    """The byte after the first line break at or after `offset`."""
    while block := stream.read_at(1 << 16, offset):
        position = block.find(b"\n")
        if position >= 0:
            return offset + position + 1
        offset += len(block)
    return offset
