"""Copies of remote artefacts on this machine: one of each content, checked whenever it is used.

    <temporary folder>/recsys-cache-<content hash>

`RECSYS_CACHE` names another folder. The copies of a machine take at most `RECSYS_CACHE_GB` (20 where it is not set):
before another is fetched, those that nobody uses go, the least recently used first. One that is larger than that is
fetched nevertheless, and so is one while all others are in use.
"""

import os
import tempfile
from contextlib import suppress
from pathlib import Path

from pyarrow import fs

from recsys.errors import UserError
from recsys.folders import hold, remove_unused, replace_folder, scratch
from recsys.manifest import Manifest, damage

_LOCAL = fs.LocalFileSystem()
_PREFIX = "recsys-cache-"
_DEFAULT_GB = 20.0

_held: dict[Path, int] = {}  # a copy that this process has used stays while it lives


def folder() -> Path:
    """Where copies lie, and what is on its way to an object store."""
    return Path(os.environ.get("RECSYS_CACHE") or tempfile.gettempdir())


def limit() -> int:
    """Bytes that the copies may take together.

    Raises:
        UserError: `RECSYS_CACHE_GB` is no number of gigabytes.
    """
    said = os.environ.get("RECSYS_CACHE_GB") or str(_DEFAULT_GB)
    try:
        size = float(said)
    except ValueError:
        size = -1.0
    if not 0 <= size < float("inf"):
        raise UserError(f"RECSYS_CACHE_GB is {said!r}; give a number of gigabytes, 0 or more")
    return int(size * 1e9)


def fetch(system: fs.FileSystem, path: str, manifest: Manifest) -> tuple[Path, str]:
    """The copy of an artefact, fetched where there is none that is whole.

    Returns:
        Where it is, and what is wrong with what was fetched ("" for nothing).
    """
    copy = folder() / f"{_PREFIX}{manifest.content_hash[:24]}"
    if _use(copy) and not damage(_LOCAL, str(copy), manifest, hashes=True):
        return copy, ""
    copy.parent.mkdir(parents=True, exist_ok=True)
    _make_room(manifest.size, copy)
    with scratch("recsys-fetch-", folder()) as work:
        with suppress(FileNotFoundError):  # replaced meanwhile: it is then not what the manifest says
            fs.copy_files(path, str(work), source_filesystem=system, destination_filesystem=_LOCAL)
        if wrong := damage(_LOCAL, str(work), manifest, hashes=True):
            return copy, wrong
        replace_folder(work, copy)
    _use(copy)
    return copy, ""


def _use(copy: Path) -> bool:
    """Keep a copy from being removed, and note that it was used; False where there is none."""
    if (descriptor := hold(copy)) is None:
        return False
    if (before := _held.pop(copy, None)) is not None:
        os.close(before)
    _held[copy] = descriptor
    with suppress(OSError):
        os.utime(copy)
    return True


def _make_room(need: int, wanted: Path) -> None:
    """Remove the least recently used copies until `need` more bytes fit the limit."""
    sizes: dict[Path, int] = {}
    ages: dict[Path, float] = {}
    for copy in folder().glob(f"{_PREFIX}*"):
        with suppress(OSError):  # another process removes it
            sizes[copy] = sum(file.stat().st_size for file in copy.rglob("*") if file.is_file())
            ages[copy] = copy.stat().st_mtime
    left = limit() - need - sum(sizes[copy] for copy in ages if copy != wanted)
    for copy in sorted(ages, key=ages.__getitem__):
        if left >= 0:
            return
        if copy != wanted and remove_unused(copy):
            left += sizes[copy]
