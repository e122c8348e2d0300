"""RecBole atomic files: `<name>.inter` and `<name>.item`, tab-separated, header names with types (`user_id:token`)."""

from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import fs

from recsys import storage
from recsys.data.attributes import SEPARATOR, split_values
from recsys.data.config import DataConfig
from recsys.data.readers.delimited import DelimitedLog, Dialect, Items, read_header, read_table
from recsys.data.readers.log import Columns, Rules
from recsys.data.readers.source import Source, as_items
from recsys.errors import UserError

_DIALECT = Dialect("\t", typed=True)
# What RecBole's own conversions call a title, the likeliest first.
_TITLES = ("title", "movie_title", "name", "item_name", "business_name", "app_name", "Title")

# Film 267 of MovieLens 100K has no title and no year; RecBole's copy says so with a slip of the pen.
_PLACEHOLDERS = ("unknown", "unkonwn")


def files_recbole(folder: str) -> tuple[str, str | None]:
    """The `.inter` file and, where there is one, the `.item` file."""
    system, root = storage.filesystem(folder)
    if system.get_file_info(root).type != fs.FileType.Directory:
        raise UserError(f"data.path {folder} is not a folder; set it to the one that holds the .inter and .item files")
    names = sorted(info.base_name for info in system.get_file_info(fs.FileSelector(root)))
    logs = [name for name in names if name.removesuffix(".gz").endswith(".inter")]
    if len(logs) != 1:
        raise UserError(f"{folder} holds {len(logs)} .inter files; RecBole data is read from a folder with exactly one")
    stem = logs[0].removesuffix(".gz").removesuffix(".inter")
    items = [name for name in names if name.removesuffix(".gz") == f"{stem}.item"]
    return storage.join(folder, logs[0]), storage.join(folder, items[0]) if items else None


def open_recbole(folder: str, config: DataConfig) -> Source:
    """Columns `user_id`, `item_id`, `timestamp`, and `rating` where one is asked for; other names by `data.columns`.

    For films RecBole keeps the year apart: the title is then `movie_title (release_year)`, as MovieLens writes it.
    """
    log, catalogue = files_recbole(folder)
    named = config.columns
    columns = Columns(
        user=named.user,
        item=named.item,
        timestamp=named.timestamp,
        rating=(named.rating or "rating") if config.min_rating is not None else None,
    )
    opened = DelimitedLog.open(log, _DIALECT, columns, Rules.of(config))
    if catalogue is None:
        return Source(log=opened, items=None)
    items, attributes = _read_items(catalogue, config)
    return Source(
        log=opened,
        items=items.table,
        bad_items=(items.bad, items.first),
        attributes=attributes,
        remarks=items.remarks,
        placeholders=frozenset(_PLACEHOLDERS),
    )


def _read_items(path: str, config: DataConfig) -> tuple[Items, dict[str, pa.ListArray]]:
    """The catalogue, its table as `ITEMS_SCHEMA`, and its attributes; `token_seq` is parted by blanks."""
    item, wanted = config.columns.item, config.columns.title
    names, _ = read_header(path, _DIALECT, config.encoding)
    title = next((name for name in (wanted, *_TITLES) if name in names), None)
    if title is None:
        raise UserError(
            f"{path.rpartition('/')[2]} has no column {wanted!r}; its columns are {', '.join(map(repr, names))}: "
            "name the one with titles in data.columns.title"
        )
    with_year = title == "movie_title" and "release_year" in names
    asked = config.columns.attributes
    columns = list(dict.fromkeys([item, title, *(["release_year"] if with_year else []), *asked]))
    items = read_table(path, _DIALECT, columns, config.encoding)
    table = items.table
    typed, _ = read_header(path, replace(_DIALECT, typed=False), config.encoding)
    sequences = [name.rpartition(":")[0] for name in typed if name.endswith(":token_seq")]
    attributes = {name: split_values(table[name], " " if name in sequences else SEPARATOR) for name in asked}
    if with_year:
        year = table["release_year"]
        dated = pc.binary_join_element_wise(table[title], pc.binary_join_element_wise("(", year, ")", ""), " ")
        known = pc.invert(pc.is_in(year, value_set=pa.array(["", *_PLACEHOLDERS])))
        table = table.set_column(table.column_names.index(title), title, pc.if_else(known, dated, table[title]))
    return replace(items, table=as_items(table, item, title)), attributes
