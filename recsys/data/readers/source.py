"""What every reader gives: a log, a catalogue of titles, and the names and hashes of the files."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import fs

from recsys import storage
from recsys.data.ids import flatten, normal_ids
from recsys.data.readers.log import InteractionLog
from recsys.errors import UserError

ITEMS_SCHEMA = pa.schema([("item_id", pa.string()), ("title", pa.string())])
_HASHED_BYTES = 1 << 28


@dataclass(frozen=True)
class Source:
    """An opened source.

    Attributes:
        log: the interactions, not yet read.
        items: `ITEMS_SCHEMA`, ids normalised, duplicates and all; None where there is no catalogue file.
        bad_items: catalogue rows with the wrong number of values, and where the first stands.
        attributes: name → lists of values, row by row of `items` (`recsys.data.attributes.split_values`).
        placeholders: titles by which this source says that it has none.
        remarks: what a person should know of how the catalogue is read; lines.
    """

    log: InteractionLog
    items: pa.Table | None
    bad_items: tuple[int, str] = (0, "")
    attributes: Mapping[str, pa.ListArray] = field(default_factory=dict)
    placeholders: frozenset[str] = frozenset()
    remarks: tuple[str, ...] = ()


def find_file(folder: str, names: list[str], what: str) -> str:
    """The first of `names` (or its .gz) that lies in `folder`, or one level below."""
    system, root = storage.filesystem(folder)
    info = system.get_file_info(root)
    if info.type == fs.FileType.NotFound:
        raise UserError(f"data.path {folder} does not exist")
    if info.type == fs.FileType.File:
        raise UserError(f"data.path {folder} is a file; {what} is read from the folder that holds {names[0]}")
    for name in names:
        for candidate in (name, f"{name}.gz"):
            if storage.exists(storage.join(folder, candidate)):
                return storage.join(folder, candidate)
    raise UserError(
        f"{folder} holds no {' or '.join(names)}, which {what} consists of; set data.path to the right folder"
    )


def describe_file(path: str) -> dict[str, Any]:
    """Name, size and SHA-256 of an input; of a large one the time of its last change, as hashing would take long."""
    system, inside = storage.filesystem(path)
    info = system.get_file_info(inside)
    if info.type != fs.FileType.File:
        raise UserError(f"{path} is not a file; set data.path to the file or folder that holds the data")
    description: dict[str, Any] = {"name": info.base_name, "size": info.size}
    if info.size > _HASHED_BYTES:
        return {**description, "mtime_ns": info.mtime_ns}
    with system.open_input_file(inside) as file:
        return {**description, "sha256": hashlib.sha256(file.read()).hexdigest()}


def as_items(table: pa.Table, item: str, title: str) -> pa.Table:
    """The columns `item` and `title` as `ITEMS_SCHEMA`."""
    titles = flatten(table[title])
    if not pa.types.is_string(titles.type):
        titles = pc.cast(titles, pa.string())
    return pa.table([normal_ids(table[item]), titles], schema=ITEMS_SCHEMA)
