"""Copies of remote artefacts: checked, made again where they are damaged, and no more than may be."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from pyarrow import fs

from recsys import copies, storage
from recsys.errors import UserError
from recsys.folders import hold, remove_unused, scratch


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int], Path]:
    """Make an artefact of so many bytes in a store that is not this disk, and give back its local copy."""
    store = fs.SubTreeFileSystem(str(tmp_path / "store"), fs.LocalFileSystem())
    (tmp_path / "store").mkdir()
    monkeypatch.setenv("RECSYS_CACHE", str(tmp_path / "copies"))
    monkeypatch.setattr(copies, "_held", {})
    monkeypatch.setattr(
        storage,
        "filesystem",
        lambda uri, real=storage.filesystem: (store, uri[6:]) if uri[:6] == "far://" else real(uri),
    )

    def fetch(name: str, size: int = 10_000) -> Path:
        if storage.read_manifest(f"far://{name}") is None:
            (tmp_path / "store" / name).mkdir()
            (tmp_path / "store" / name / "data").write_bytes(os.urandom(size))
            storage.seal(f"far://{name}")
        return storage.local_copy(f"far://{name}")

    return fetch


def forget() -> None:
    """As after the end of the process that used them."""
    for descriptor in copies._held.values():
        os.close(descriptor)
    copies._held.clear()


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.write_bytes(b""),
        lambda file: file.write_bytes(bytes(10_000)),
        lambda file: file.unlink(),
        lambda file: shutil.rmtree(file.parent),
    ],
    ids=["cut short", "changed", "a file gone", "all gone"],
)
def test_a_damaged_copy_is_fetched_again(remote: Callable[..., Path], tmp_path: Path, damage) -> None:
    copy = remote("a")
    content = (tmp_path / "store" / "a" / "data").read_bytes()
    damage(copy / "data")
    assert remote("a") == copy
    assert (copy / "data").read_bytes() == content
    assert [path.name for path in (tmp_path / "copies").iterdir()] == [copy.name]


def test_what_is_damaged_at_its_source_is_no_copy(remote: Callable[..., Path], tmp_path: Path) -> None:
    copy = remote("a")
    forget()
    remove_unused(copy)
    (tmp_path / "store" / "a" / "data").write_bytes(bytes(10_000))
    with pytest.raises(UserError, match="artefact far://a is damaged: data does not match its checksum; make it again"):
        remote("a")
    assert list((tmp_path / "copies").iterdir()) == []


def test_the_least_recently_used_copies_go(
    remote: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECSYS_CACHE_GB", "35e-6")
    made = {name: remote(name) for name in "abc"}
    for age, name in enumerate("cab"):  # b was used last, c first
        os.utime(made[name], (age, age))
    assert remote("d").exists() and all(copy.exists() for copy in made.values()), "in use by this process"
    forget()
    remote("e")
    assert not made["c"].exists() and not made["a"].exists() and made["b"].exists()
    assert remote("big", 100_000).exists(), "larger than all that may be"


def test_what_another_process_uses_stays(tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    descriptor = hold(tmp_path / "copy")
    assert descriptor is not None
    assert not remove_unused(tmp_path / "copy")
    os.close(descriptor)
    assert remove_unused(tmp_path / "copy") and not (tmp_path / "copy").exists()
    assert hold(tmp_path / "copy") is None


def test_what_killed_processes_left_goes(remote: Callable[..., Path], tmp_path: Path) -> None:
    left, made_now = (tmp_path / "copies" / f"recsys-fetch-{name}" for name in ("old", "new"))
    for folder in (left, made_now):
        folder.mkdir(parents=True)
    os.utime(left, (0, 0))
    remote("a")
    assert not left.exists() and made_now.exists()


@pytest.mark.parametrize("said", ["much", "-1", "nan", "inf"])
def test_a_wrong_limit_is_one_line(monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    monkeypatch.setenv("RECSYS_CACHE_GB", said)
    with pytest.raises(UserError, match=f"RECSYS_CACHE_GB is '{said}'"):
        copies.limit()


def test_a_folder_that_is_not_there_yet_is_made(tmp_path: Path) -> None:
    with scratch("recsys-write-", tmp_path / "copies" / "of") as work:
        assert work.is_dir()
    assert not list((tmp_path / "copies" / "of").iterdir())
