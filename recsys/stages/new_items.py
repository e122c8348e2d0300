"""New items for a trained student, as a checkpoint beside its own: the next version of it."""

import re

from recsys import storage
from recsys.config import digest
from recsys.data.readers.source import as_items
from recsys.data.readers.table import read_items
from recsys.errors import UserError
from recsys.names import RESERVED_FOR_STUDENTS, require_name
from recsys.settings import Settings
from recsys.stages.artefacts import alone, is_current, require


def read_new_items(path: str) -> dict[str, str]:
    """Ids and titles of a CSV, TSV (also gzipped) or Parquet file with the columns `id` and `title`.

    Raises:
        UserError: it cannot be read, a column is not there, or an id is there twice.
    """
    read = read_items(path, "id", "title")
    if read.bad:
        raise UserError(
            f"{path}: {read.bad} rows have not as many values as there are columns, the first is {read.first}"
        )
    table = as_items(read.table, "id", "title")
    ids, titles = table["item_id"].to_pylist(), table["title"].to_pylist()
    if len(set(ids)) < len(ids):
        twice = next(item for number, item in enumerate(ids) if item in ids[:number])
        raise UserError(f"{path}: item {twice!r} is there twice; leave one out")
    return {item: title or "" for item, title in zip(ids, titles, strict=True)}


def make(settings: Settings, name: str, path: str, version: str | None = None, *, force: bool = False) -> str:
    """Add the items of a file to a student; its name with the next free number, or `version`, names what comes of it.

    Returns:
        The name.

    Raises:
        UserError: the student is not there or takes in no new items, or the file or an item of it cannot be meant.
    """
    items = read_new_items(path)
    source = settings.layout.model(require_name(name, "the model"))
    made_from = require(source, f"checkpoint of {name!r}", "distill").content_hash
    key = digest({"checkpoint": made_from, "items": list(items.items())})
    found = require_name(version, "the new version") if version else _next_version(settings, name, key)
    _make(settings, name, items, found, key, force)
    return found


@alone(lambda settings, _, __, version, *___: (settings.layout.student(version), f"student {version}"))
def _make(settings: Settings, name: str, items: dict[str, str], version: str, key: str, force: bool) -> None:
    from recsys.serving.recommender import Recommender

    uri = settings.layout.student(version)
    if version in (name, *settings.students, *RESERVED_FOR_STUDENTS):
        raise UserError(f"{version!r} is the name of another model; choose one for what comes of it")
    if not force and is_current(uri, key):
        print(f"new items: {version} is unchanged, kept", flush=True)
        return
    grown = Recommender.load(settings.layout.model(name)).add_items(items).save(uri, key=key)
    count = f"{len(items):,} item{'s' * (len(items) > 1)}"
    print(f"new items: {count} added to {name}: {version}, {len(grown.catalogue):,} items", flush=True)
    print(f"new items: checkpoint {grown.checkpoint.hash[:12]} in {uri}", flush=True)


def _next_version(settings: Settings, name: str, key: str) -> str:
    """NAME.2, NAME.3, …: the first that is free or was made of the same."""
    base, number = re.sub(r"\.\d+$", "", name), 2
    while (manifest := storage.read_manifest(settings.layout.student(f"{base}.{number}"))) and manifest.key != key:
        number += 1
    return f"{base}.{number}"
