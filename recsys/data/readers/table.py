"""Generic tables: CSV, TSV (both plain or gzip) and Parquet, with columns named by the user."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.data.attributes import split_values
from recsys.data.config import DataConfig
from recsys.data.ids import is_text, require_ids
from recsys.data.readers.delimited import DelimitedLog, Dialect, Items, read_table, require
from recsys.data.readers.log import (
    AS_IT_IS,
    PART_ROWS,
    Columns,
    InteractionLog,
    Part,
    Rules,
    normalise,
    open_file,
    report_unreadable,
)
from recsys.data.readers.source import Source, as_items
from recsys.data.readers.times import require_times
from recsys.errors import UserError

_ROW_GROUPS_PER_PART = 4


@dataclass(frozen=True)
class ParquetLog:
    """An interaction log in a Parquet file; a part is a few row groups."""

    path: str
    columns: Columns
    rules: Rules = AS_IT_IS

    @classmethod
    def open(cls, path: str, columns: Columns, rules: Rules = AS_IT_IS) -> "ParquetLog":
        """
        Raises:
            UserError: it is no Parquet file, or a column is not there or of a type that cannot be meant.
        """
        with _parquet(path) as file:
            schema = file.schema_arrow
        require(path, schema.names, columns.names())
        for name in (columns.user, columns.item):
            require_ids(path, name, schema.field(name).type)
        if columns.timestamp is not None:
            require_times(path, columns.timestamp, schema.field(columns.timestamp).type, rules.time_unit)
        if columns.rating is not None:
            require_plain(path, columns.rating, schema.field(columns.rating).type, "ratings are numbers")
        return cls(path, columns, rules)

    def remarks(self) -> tuple[str, ...]:
        return ()

    def parts(self) -> list[Part]:
        with _parquet(self.path) as file:
            sizes = [file.metadata.row_group(g).total_byte_size for g in range(file.metadata.num_row_groups)]
        return [
            Part(
                i,
                self.path,
                start=a,
                end=min(a + _ROW_GROUPS_PER_PART, len(sizes)),
                size=sum(sizes[a : a + _ROW_GROUPS_PER_PART]),
            )
            for i, a in enumerate(range(0, max(len(sizes), 1), _ROW_GROUPS_PER_PART))
        ]

    def parse(self, part: Part) -> Iterator[pa.Table]:
        row = part.index * PART_ROWS
        try:
            with _parquet(part.path, part.content) as file:
                for group in range(part.start, part.end):
                    raw = file.read_row_group(group, columns=self.columns.names())
                    yield normalise(raw, self.columns, np.arange(row, row + len(raw)), self.rules)
                    row += len(raw)
        except (OSError, pa.ArrowException) as error:
            yield report_unreadable(part.path, error)

    def where(self, row: int) -> str:
        index, row = divmod(row, PART_ROWS)
        with _parquet(self.path) as file:
            before = sum(file.metadata.row_group(g).num_rows for g in range(index * _ROW_GROUPS_PER_PART))
        return f"row {before + row + 1}"


def open_table(path: str, config: DataConfig) -> Source:
    """The file's name says its format; TSV is read with quoting off, since titles hold quotes."""
    named = config.columns
    columns = Columns(
        user=named.user,
        item=named.item,
        timestamp=named.timestamp,
        rating=named.rating if config.min_rating is not None else None,
    )
    rules = Rules.of(config)
    log: InteractionLog
    if _is_parquet(path):
        log = ParquetLog.open(path, columns, rules)
    else:
        log = DelimitedLog.open(path, _dialect(path), columns, rules)
    if config.items_path is None:
        return Source(log=log, items=None)
    items = _read_items(config.items_path, config)
    return Source(
        log=log,
        items=as_items(items.table, named.item, named.title),
        bad_items=(items.bad, items.first),
        attributes={name: split_values(items.table[name]) for name in named.attributes},
        remarks=items.remarks,
    )


def _read_items(path: str, config: DataConfig) -> Items:
    columns = config.columns
    return read_items(path, columns.item, columns.title, config.encoding, columns.attributes)


def read_items(path: str, item: str, title: str, encoding: str = "auto", attributes: Sequence[str] = ()) -> Items:
    """Columns of a catalogue in any of the formats.

    Raises:
        UserError: a column is not there or of a type that cannot be meant, or the file cannot be read.
    """
    items = read_columns(path, list(dict.fromkeys([item, title, *attributes])), encoding)
    schema = items.table.schema
    require_ids(path, item, schema.field(item).type)
    require_plain(path, title, schema.field(title).type, "titles are text")
    for name in attributes:
        kind = schema.field(name).type
        many = pa.types.is_list(kind) or pa.types.is_large_list(kind)
        require_plain(path, name, kind.value_type if many else kind, "attributes are text, or lists of text")
    return items


def read_columns(path: str, columns: list[str], encoding: str = "auto") -> Items:
    """Some columns of a whole table in any of the formats: as text, in Parquet as what they are.

    Raises:
        UserError: a column is not there, or the file cannot be read.
    """
    if not _is_parquet(path):
        return read_table(path, _dialect(path), columns, encoding)
    with _parquet(path) as file:
        require(path, file.schema_arrow.names, columns)
        try:
            table = file.read(columns=columns)
            table.validate(full=True)  # pyarrow reads text that is not UTF-8 without a word
            return Items(table)
        except (OSError, pa.ArrowException) as error:
            raise UserError(f"{path} cannot be read: {' '.join(str(error).split())}") from None


def require_plain(path: str, name: str, kind: pa.DataType, rule: str) -> None:
    """Refuse a column that is neither text nor numbers.

    Raises:
        UserError: it holds truth values, times, lists or the like.
    """
    inner = kind.value_type if pa.types.is_dictionary(kind) else kind
    numeric = pa.types.is_integer(inner) or pa.types.is_floating(inner) or pa.types.is_decimal(inner)
    if not (is_text(inner) or numeric or pa.types.is_null(inner)):
        raise UserError(f"column {name!r} of {path.rpartition('/')[2]} is of type {kind}; {rule}")


def _dialect(path: str) -> Dialect:
    name = path.lower().removesuffix(".gz")
    if name.endswith((".tsv", ".tab")):
        return Dialect("\t")
    if name.endswith(".csv"):
        return Dialect(",", quoted=True)
    raise UserError(f"the name of {path} does not say its format; it should end in .csv, .tsv, their .gz, or .parquet")


def _is_parquet(path: str) -> bool:
    return path.lower().endswith((".parquet", ".pq"))


def _parquet(path: str, content: bytes | None = None) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(open_file(path, content))
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path} cannot be read as Parquet: {' '.join(str(error).split())}") from None
