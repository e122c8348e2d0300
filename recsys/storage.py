"""Artefacts under one storage root: a local path or any `pyarrow.fs` URI (file, s3, gs, …).

An artefact is a directory. Object stores have no rename, so a reader trusts a directory only when its `_SUCCESS`
manifest (names, sizes, SHA-256) is there; on a file system writers use a temporary name and rename as well. Whatever
is killed half-way leaves either the old artefact or the new one, never a mixture.
"""

import errno
import hashlib
import json
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyarrow import fs

from recsys.errors import UserError

MANIFEST = "_SUCCESS"
_CHUNK = 1 << 22


@dataclass(frozen=True)
class Manifest:
    """What `_SUCCESS` says: the files, the key of the work that made them, and attributes for readers."""

    files: dict[str, dict[str, Any]]
    key: str
    attributes: dict[str, Any]

    @property
    def content_hash(self) -> str:
        """SHA-256 over the names and hashes of the files: equal content gives an equal hash."""
        lines = sorted(f"{name} {entry['sha256']}" for name, entry in self.files.items())
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def absolute(uri: str) -> str:
    """A storage URI as it is, a local path made absolute (a job's own folder is not the user's)."""
    return uri if "://" in uri else str(Path(uri).expanduser().resolve())


def filesystem(uri: str) -> tuple[fs.FileSystem, str]:
    """The file system of `uri` and the path inside it.

    Raises:
        UserError: the scheme is unknown.
    """
    if "://" not in uri:
        return fs.LocalFileSystem(), absolute(uri)
    try:
        return fs.FileSystem.from_uri(uri)
    except (ValueError, OSError) as error:
        raise UserError(f"storage {uri!r} cannot be opened: {error}") from None


def join(uri: str, *parts: str) -> str:
    return "/".join([uri.rstrip("/"), *parts])


def exists(uri: str) -> bool:
    system, path = filesystem(uri)
    return system.get_file_info(path).type != fs.FileType.NotFound


def read_bytes(uri: str) -> bytes:
    system, path = filesystem(uri)
    with system.open_input_stream(path, compression=None) as stream:
        return stream.read()


def read_json(uri: str) -> Any:
    return json.loads(read_bytes(uri))


def write_bytes(uri: str, data: bytes) -> None:
    """Write one file whole or not at all."""
    system, path = filesystem(uri)
    with _space(uri):
        system.create_dir(path.rpartition("/")[0], recursive=True)
        if isinstance(system, fs.LocalFileSystem):
            temporary = f"{path}.{uuid.uuid4().hex[:8]}.tmp"
            Path(temporary).write_bytes(data)
            Path(temporary).replace(path)
        else:
            with system.open_output_stream(path, compression=None) as stream:
                stream.write(data)


def write_json(uri: str, value: Any) -> None:
    write_bytes(uri, (json.dumps(value, indent=2) + "\n").encode())


def delete(uri: str) -> None:
    """Remove a directory; the manifest first, so that nobody trusts what is left half-way."""
    system, path = filesystem(uri)
    if system.get_file_info(f"{path}/{MANIFEST}").type == fs.FileType.File:
        system.delete_file(f"{path}/{MANIFEST}")
    if system.get_file_info(path).type == fs.FileType.Directory:
        system.delete_dir(path)


def read_manifest(uri: str) -> Manifest | None:
    """The manifest of a complete artefact, or None where there is none."""
    system, path = filesystem(uri)
    if system.get_file_info(f"{path}/{MANIFEST}").type != fs.FileType.File:
        return None
    with system.open_input_stream(f"{path}/{MANIFEST}") as stream:
        raw = json.loads(stream.read())
    return Manifest(files=raw["files"], key=raw["key"], attributes=raw["attributes"])


@contextmanager
def new_artifact(uri: str, *, key: str = "", attributes: dict[str, Any] | None = None) -> Iterator[Path]:
    """A local directory to write into; on leaving without an exception it becomes the artefact `uri`.

    An artefact of that name is replaced as a whole. After an exception nothing of the new one remains.

    Args:
        key: digest of the configuration and inputs of the work, so that a second run can tell it is done.
    """
    system, path = filesystem(uri)
    local = isinstance(system, fs.LocalFileSystem)
    with _space(uri):
        if local:
            parent = Path(path).parent
            parent.mkdir(parents=True, exist_ok=True)
            work = Path(tempfile.mkdtemp(prefix=f".{Path(path).name}.", suffix=".tmp", dir=parent))
            work.chmod(0o755)
        else:
            work = Path(tempfile.mkdtemp(prefix="recsys-"))
        try:
            yield work
            manifest = _describe(work, key, attributes or {})
            (work / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
            if local:
                _swap(work, Path(path))
            else:
                delete(uri)
                fs.copy_files(str(work), path, source_filesystem=fs.LocalFileSystem(), destination_filesystem=system)
        finally:
            shutil.rmtree(work, ignore_errors=True)


def seal(uri: str, *, key: str = "", attributes: dict[str, Any] | None = None) -> None:
    """Write the manifest of a directory whose files were written in place by several writers."""
    system, path = filesystem(uri)
    files = {}
    for info in system.get_file_info(fs.FileSelector(path, recursive=True)):
        name = info.path[len(path) :].lstrip("/")
        if info.type == fs.FileType.File and name != MANIFEST:
            with system.open_input_stream(info.path, compression=None) as stream:
                files[name] = {"size": info.size, "sha256": _sha256(stream)}
    manifest = {"files": files, "key": key, "attributes": attributes or {}}
    write_bytes(join(uri, MANIFEST), (json.dumps(manifest, indent=2) + "\n").encode())


def local_copy(uri: str, what: str = "artefact") -> Path:
    """A complete artefact as a local directory: the directory itself, or a download for a remote URI.

    Raises:
        UserError: it is not there, not complete, or a file differs from the manifest.
    """
    manifest = read_manifest(uri)
    if manifest is None:
        state = f"is incomplete (no {MANIFEST})" if exists(uri) else "does not exist"
        raise UserError(f"{what} {uri} {state}; make it again")
    system, path = filesystem(uri)
    if isinstance(system, fs.LocalFileSystem):
        directory = Path(path)
    else:
        directory = Path(tempfile.gettempdir()) / f"recsys-cache-{manifest.content_hash[:24]}"
        if not (directory / MANIFEST).exists():
            temporary = Path(tempfile.mkdtemp(prefix="recsys-cache-"))
            fs.copy_files(path, str(temporary), source_filesystem=system, destination_filesystem=fs.LocalFileSystem())
            try:
                temporary.rename(directory)
            except OSError:  # another process was first
                shutil.rmtree(temporary)
    for name, entry in manifest.files.items():
        file = directory / name
        size = file.stat().st_size if file.exists() else -1
        if size != entry["size"]:
            found = "is missing" if size < 0 else f"has {size} bytes instead of {entry['size']}"
            raise UserError(f"{what} {uri} is damaged: {name} {found}; make it again")
        with file.open("rb") as stream:
            if _sha256(stream) != entry["sha256"]:
                raise UserError(f"{what} {uri} is damaged: {name} does not match its checksum; make it again")
    return directory


def _describe(directory: Path, key: str, attributes: dict[str, Any]) -> dict[str, Any]:
    files = {}
    for file in sorted(directory.rglob("*")):
        if file.is_file():
            with file.open("rb") as stream:
                files[str(file.relative_to(directory))] = {"size": file.stat().st_size, "sha256": _sha256(stream)}
    return {"files": files, "key": key, "attributes": attributes}


def _sha256(stream: Any) -> str:
    hasher = hashlib.sha256()
    while chunk := stream.read(_CHUNK):
        hasher.update(chunk)
    return hasher.hexdigest()


def _swap(new: Path, target: Path) -> None:
    if target.exists():
        old = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.old")
        target.rename(old)
        new.rename(target)
        shutil.rmtree(old, ignore_errors=True)
    else:
        new.rename(target)


@contextmanager
def _space(uri: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(f"no space left on the disk of {uri}; free some and run again") from None
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise UserError(f"{uri} is not writable: {error.strerror}") from None
        raise
