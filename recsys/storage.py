"""Artefacts under one storage root: a local path or any `pyarrow.fs` URI (file, s3, gs, …).

An artefact is a directory, and a reader trusts it only when its `_SUCCESS` manifest (names, sizes, SHA-256) is there
and whole. On a file system writers fill a directory beside it, have the disk keep it, and rename it. Object stores have
no rename: there the old manifest goes first, then the files are sent, and when all have arrived the new manifest.
Whatever is killed half-way leaves the old artefact, the new one or none that counts, never a mixture.
"""

import errno
import json
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pyarrow import fs

from recsys import copies
from recsys.errors import UnwritableError, UserError
from recsys.folders import keep_on_disk, replace_folder, scratch
from recsys.manifest import MANIFEST, Manifest, damage, describe

_LOCAL = fs.LocalFileSystem()
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # PyTorch raises an error of its own on top of these
_REASONS = {
    errno.ENOSPC: "no space left on the disk of {uri}; free some and run again",
    errno.EDQUOT: "no space left on the disk of {uri} (its quota is used up); free some and run again",
    errno.EFBIG: "{uri} cannot be written: File too large for the file system, or for a limit of this process",
    **dict.fromkeys((errno.EACCES, errno.EROFS, errno.EPERM), "{uri} is not writable: {text}"),
    **dict.fromkeys((errno.ENOTDIR, errno.EIO, errno.ESTALE), "{uri} cannot be written: {text}"),
}


def absolute(uri: str) -> str:
    """A storage URI as it is, a local path made absolute (a job's own folder is not the user's)."""
    return uri if "://" in uri else str(Path(uri).expanduser().resolve())


def filesystem(uri: str) -> tuple[fs.FileSystem, str]:
    """The file system of `uri` and the path inside it.

    Raises:
        UserError: the scheme is unknown.
    """
    if "://" not in uri:
        return _LOCAL, absolute(uri)
    try:
        return fs.FileSystem.from_uri(uri)
    except (ValueError, OSError) as error:
        raise UserError(f"storage {uri!r} cannot be opened: {error}") from None


def check_reachable(uri: str) -> None:
    """Refuse an object store that does not answer, or a bucket that is not there.

    Raises:
        UserError: says what the store said.
    """
    system, path = filesystem(uri)
    bucket = path.partition("/")[0]
    with _explain_refusal(uri, "reached"):
        if _type(system, path) == fs.FileType.NotFound and _type(system, bucket) == fs.FileType.NotFound:
            raise UserError(f"storage {uri} cannot be used: there is no bucket {bucket}; make it, or name another")


def join(uri: str, *parts: str) -> str:
    return "/".join([uri.rstrip("/"), *parts])


def exists(uri: str) -> bool:
    system, path = filesystem(uri)
    return _type(system, path) != fs.FileType.NotFound


def read_bytes(uri: str) -> bytes:
    system, path = filesystem(uri)
    with _explain_refusal(uri, "read"), system.open_input_stream(path, compression=None) as stream:
        return stream.read()


def read_json(uri: str) -> Any:
    """The content of a JSON file.

    Raises:
        UserError: there is none, or it is damaged.
    """
    try:
        return json.loads(read_bytes(uri))
    except FileNotFoundError:
        raise UserError(f"{uri} does not exist; make it again") from None
    except ValueError as error:
        raise UserError(f"{uri} is damaged: it is not JSON ({error}); make it again") from None


def read_json_if_whole(uri: str) -> Any:
    """The content of a JSON file, or None where there is none or it is damaged."""
    try:
        return read_json(uri)
    except UserError:
        return None


def write_bytes(uri: str, data: bytes) -> None:
    """Write one file whole or not at all.

    Raises:
        UnwritableError: the disk is full, or what is there may not be written.
    """
    system, path = filesystem(uri)
    if isinstance(system, fs.LocalFileSystem):
        temporary = Path(f"{path}.{uuid.uuid4().hex[:8]}.tmp")
        with explain_unwritable(uri):
            _make_folder(temporary.parent)
            try:
                temporary.write_bytes(data)
                keep_on_disk(temporary)
                temporary.replace(path)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
    else:
        with _explain_refusal(uri, "written", UnwritableError):
            system.create_dir(path.rpartition("/")[0], recursive=True)
            with system.open_output_stream(path, compression=None) as stream:
                stream.write(data)


def write_json(uri: str, value: Any) -> None:
    write_bytes(uri, (json.dumps(value, indent=2) + "\n").encode())


def delete(uri: str) -> None:
    """Remove a directory; the manifest first, so that nobody trusts what is left half-way."""
    system, path = filesystem(uri)
    with explain_unwritable(uri), suppress(FileNotFoundError):
        if _type(system, f"{path}/{MANIFEST}") == fs.FileType.File:
            system.delete_file(f"{path}/{MANIFEST}")
        if _type(system, path) == fs.FileType.Directory:
            system.delete_dir(path)


def read_manifest(uri: str) -> Manifest | None:
    """The manifest of a complete artefact, or None where there is none that is whole."""
    system, path = filesystem(uri)
    with _explain_refusal(uri, "read"):
        if _type(system, f"{path}/{MANIFEST}") != fs.FileType.File:
            return None
        with suppress(FileNotFoundError), system.open_input_stream(f"{path}/{MANIFEST}", compression=None) as stream:
            return Manifest.parse(stream.read())
    return None


def is_current(uri: str, key: str, *, hashes: bool = False) -> bool:
    """Whether an artefact of this key is there, with all its files in their sizes and, if asked, their hashes."""
    return state(uri, key, hashes=hashes) == ""


def state(uri: str, key: str, *, hashes: bool = False) -> str | None:
    """As `is_current`: "" for yes, None where there is none of this key, otherwise what is damaged."""
    manifest = read_manifest(uri)
    if manifest is None or manifest.key != key:
        return None
    system, path = filesystem(uri)
    return damage(system, path, manifest, hashes=hashes)


@contextmanager
def new_artifact(uri: str, *, key: str = "", attributes: dict[str, Any] | None = None) -> Iterator[Path]:
    """A local directory to write into; on leaving without an exception it becomes the artefact `uri`.

    An artefact of that name is replaced as a whole. After an exception nothing of the new one counts.

    Args:
        key: digest of the configuration and inputs of the work, so that a second run can tell it is done.

    Raises:
        UnwritableError: the disk is full, or what is there may not be written.
    """
    system, path = filesystem(uri)
    with explain_unwritable(uri):
        if isinstance(system, fs.LocalFileSystem):
            parent = Path(path).parent
            _make_folder(parent)
            work = Path(tempfile.mkdtemp(prefix=f".{Path(path).name}.", suffix=".tmp", dir=parent))
            work.chmod(0o755)
            try:
                yield work
                _seal_locally(work, describe(_LOCAL, str(work), key=key, attributes=attributes or {}))
                replace_folder(work, Path(path))
            finally:
                shutil.rmtree(work, ignore_errors=True)
        else:
            with scratch("recsys-write-", copies.folder()) as work:
                yield work
                manifest = describe(_LOCAL, str(work), key=key, attributes=attributes or {})
                delete(uri)
                with _explain_refusal(uri, "written", UnwritableError):
                    fs.copy_files(str(work), path, source_filesystem=_LOCAL, destination_filesystem=system)
                write_bytes(join(uri, MANIFEST), manifest.to_bytes())


def seal(uri: str, *, key: str = "", attributes: dict[str, Any] | None = None) -> None:
    """Write the manifest of a directory whose files were written in place by several writers."""
    system, path = filesystem(uri)
    write_bytes(join(uri, MANIFEST), describe(system, path, key=key, attributes=attributes or {}).to_bytes())


def move(source: str, uri: str) -> None:
    """Put a sealed directory in the place of the artefact `uri` of the same storage; killed on the way, a second call
    finishes."""
    system, old = filesystem(source)
    _, new = filesystem(uri)
    if isinstance(system, fs.LocalFileSystem):
        with explain_unwritable(uri):
            replace_folder(Path(old), Path(new))
        return
    manifest = read_bytes(join(source, MANIFEST))
    delete(uri)
    with _explain_refusal(uri, "written", UnwritableError):
        for info in system.get_file_info(fs.FileSelector(old, recursive=True)):
            if info.type == fs.FileType.File and info.base_name != MANIFEST:
                system.copy_file(info.path, new + info.path[len(old) :])
    write_bytes(join(uri, MANIFEST), manifest)
    delete(source)


def remove_leftovers(uri: str) -> None:
    """Remove what killed writers of a local artefact left beside it; nobody may be writing it."""
    system, path = filesystem(uri)
    if isinstance(system, fs.LocalFileSystem):
        for suffix in ("tmp", "old"):
            for left in Path(path).parent.glob(f".{Path(path).name}.{'[a-z0-9_]' * 8}.{suffix}"):
                shutil.rmtree(left, ignore_errors=True)


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
        directory, wrong = Path(path), damage(system, path, manifest, hashes=True)
    else:
        with (
            _explain_refusal(uri, "copied"),
            explain_unwritable(f"{copies.folder()}, where copies of remote artefacts lie"),
        ):
            directory, wrong = copies.fetch(system, path, manifest)
    if wrong:
        raise UserError(f"{what} {uri} is damaged: {wrong}; make it again")
    return directory


@contextmanager
def explain_unwritable(uri: str) -> Iterator[None]:
    """Turn what a full disk or a missing right makes of the block, whoever raises it, into one line.

    Raises:
        UnwritableError: names `uri`.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        number = next((found for cause in _causes(error) if (found := _number(cause)) in _FULL), _number(error))
        if number not in _REASONS:
            raise
        raise UnwritableError(_REASONS[number].format(uri=uri, text=os.strerror(number))) from None


def _number(error: BaseException) -> int | None:
    """The operating system's number for what went wrong; safetensors tells it in words alone."""
    if isinstance(error, OSError):
        return error.errno
    said = re.search(r"\(os error (\d+)\)", str(error))
    return int(said[1]) if said else None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


@contextmanager
def _explain_refusal(uri: str, verb: str, kind: type[UserError] = UserError) -> Iterator[None]:
    """What a file system or an object store refuses, as one line; that a file is not there stays what it is."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise kind(f"{uri} cannot be {verb}: {' '.join(str(error).split())[:300]}") from None


def _type(system: fs.FileSystem, path: str) -> fs.FileType:
    return system.get_file_info(path).type


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path)) from None


def _seal_locally(work: Path, manifest: Manifest) -> None:
    """Have the disk keep the files before there is a manifest that vouches for them."""
    for name in manifest.files:
        keep_on_disk(work / name)
    for folder in (path for path in work.rglob("*") if path.is_dir()):
        keep_on_disk(folder)
    (work / MANIFEST).write_bytes(manifest.to_bytes())
    keep_on_disk(work / MANIFEST)
    keep_on_disk(work)
