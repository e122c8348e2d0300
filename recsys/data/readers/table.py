"""Generic tables: CSV, TSV (both plain or gzip) and Parquet, with columns named by the user."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.data.config import DataConfig
from recsys.data.readers.delimited import DelimitedLog, Dialect, read_table, require
from recsys.data.readers.log import PART_ROWS, Columns, InteractionLog, Part, normalise, open_file, unreadable
from recsys.data.readers.source import Source, as_items
from recsys.errors import UserError

_ROW_GROUPS_PER_PART = 4


@dataclass(frozen=True)
class ParquetLog:
    """An interaction log in a Parquet file; a part is a few row groups."""

    path: str
    columns: Columns
    min_rating: float | None = None

    @classmethod
    def open(cls, path: str, columns: Columns, min_rating: float | None) -> "ParquetLog":
        """
        Raises:
            UserError: it is no Parquet file, or a column is not there.
        """
        with _parquet(path) as file:
            require(path, file.schema_arrow.names, columns.names())
        return cls(path, columns, min_rating)

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
                    yield normalise(raw, self.columns, np.arange(row, row + len(raw)), self.min_rating)
                    row += len(raw)
        except (OSError, pa.ArrowInvalid) as error:
            yield unreadable(part.path, error)

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
    log: InteractionLog
    if _is_parquet(path):
        log = ParquetLog.open(path, columns, config.min_rating)
    else:
        log = DelimitedLog.open(path, _dialect(path), columns, config.min_rating)
    if config.items_path is None:
        return Source(log=log, items=None)
    wanted = [named.item, named.title]
    if _is_parquet(config.items_path):
        with _parquet(config.items_path) as file:
            require(config.items_path, file.schema_arrow.names, wanted)
            items, bad, first = file.read(columns=wanted), 0, ""
    else:
        items, bad, first = read_table(config.items_path, _dialect(config.items_path), wanted)
    return Source(log=log, items=as_items(items, {named.item: "item_id", named.title: "title"}), bad_items=(bad, first))


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
    except pa.ArrowInvalid as error:
        raise UserError(f"{path} cannot be read as Parquet: {' '.join(str(error).split())}") from None
