"""Folders on a disk: kept where power fails, replaced as a whole, and not removed under those who use them."""

import errno
import fcntl
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_SCRATCH = ("recsys-write-", "recsys-fetch-")
_JUST_MADE = 60  # seconds in which a folder may have no holder yet


def keep_on_disk(path: Path) -> None:
    """Have the disk keep a file, or the names in a folder, even where power fails."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_folder(new: Path, target: Path) -> None:
    """Rename `new` to `target`; what is there is moved aside and removed, also where others do the same."""
    while True:
        old = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.old")
        with suppress(FileNotFoundError):
            target.rename(old)
        try:
            new.rename(target)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):  # another writer was faster
                shutil.rmtree(old, ignore_errors=True)
                continue
            with suppress(OSError):
                old.rename(target)
            raise
        shutil.rmtree(old, ignore_errors=True)
        return keep_on_disk(target.parent)


def hold(folder: Path) -> int | None:
    """Keep `remove_unused` of every process from a folder, until the descriptor is closed or this process ends.

    Returns:
        The descriptor, or None where there is no such folder.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):
        return None
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    with suppress(FileNotFoundError):
        if os.fstat(descriptor).st_ino == folder.stat().st_ino:
            return descriptor
    os.close(descriptor)  # it was removed meanwhile
    return None


def remove_unused(folder: Path) -> bool:
    """Remove a folder that nobody holds."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
        return not folder.exists()
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)


@contextmanager
def scratch(prefix: str, inside: Path) -> Iterator[Path]:
    """A folder to work in, removed afterwards; what killed processes left of their own is removed first."""
    assert prefix in _SCRATCH
    inside.mkdir(parents=True, exist_ok=True)
    for left in [path for name in _SCRATCH for path in inside.glob(f"{name}*")]:
        with suppress(FileNotFoundError):
            if time.time() - left.stat().st_mtime > _JUST_MADE:
                remove_unused(left)
    work = Path(tempfile.mkdtemp(prefix=prefix, dir=inside))
    descriptor = hold(work)
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)
        if descriptor is not None:
            os.close(descriptor)
