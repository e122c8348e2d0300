"""`_SUCCESS`: what a complete artefact says of itself, and whether its files still are what it says."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pyarrow import fs

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

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(entry["size"] for entry in self.files.values())

    def to_bytes(self) -> bytes:
        return (json.dumps(asdict(self), indent=2) + "\n").encode()

    @classmethod
    def parse(cls, data: bytes) -> "Manifest | None":
        """What `to_bytes` wrote; None for anything else, such as a file that was cut short."""
        try:
            raw = json.loads(data)
            files = {name: {"size": int(e["size"]), "sha256": str(e["sha256"])} for name, e in raw["files"].items()}
            return cls(files=files, key=str(raw["key"]), attributes=dict(raw["attributes"]))
        except (ValueError, KeyError, TypeError, AttributeError):
            return None


def describe(system: fs.FileSystem, path: str, *, key: str, attributes: dict[str, Any]) -> Manifest:
    """The manifest of what lies in a directory now; reads every file."""
    files = {
        name: {"size": size, "sha256": _sha256(system, f"{path}/{name}")}
        for name, size in sorted(_sizes(system, path).items())
        if name != MANIFEST
    }
    return Manifest(files=files, key=key, attributes=attributes)


def damage(system: fs.FileSystem, path: str, manifest: Manifest, *, hashes: bool) -> str:
    """What is wrong with the files of an artefact, as the end of a sentence; "" for nothing.

    Args:
        hashes: read the files as well; without it their sizes alone are compared.
    """
    sizes = _sizes(system, path)
    for name, entry in manifest.files.items():
        if name not in sizes:
            return f"{name} is missing"
        if sizes[name] != entry["size"]:
            return f"{name} has {sizes[name]} bytes instead of {entry['size']}"
    for name, entry in manifest.files.items():
        if hashes and _sha256(system, f"{path}/{name}") != entry["sha256"]:
            return f"{name} does not match its checksum"
    return ""


def _sizes(system: fs.FileSystem, path: str) -> dict[str, int]:
    """Bytes of each file below a directory, by its name in there."""
    infos = system.get_file_info(fs.FileSelector(path, recursive=True, allow_not_found=True))
    return {info.path[len(path) :].lstrip("/"): info.size for info in infos if info.type == fs.FileType.File}


def _sha256(system: fs.FileSystem, path: str) -> str:
    hasher = hashlib.sha256()
    # Arrow's streams cost a copy that a plain file does not.
    local = isinstance(system, fs.LocalFileSystem)
    with Path(path).open("rb") if local else system.open_input_stream(path, compression=None) as stream:
        while chunk := stream.read(_CHUNK):
            hasher.update(chunk)
    return hasher.hexdigest()
