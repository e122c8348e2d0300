"""What an artefact says of itself is read back whole or not at all, and compared with what is there."""

from collections.abc import Callable
from pathlib import Path

import pytest
from pyarrow import fs

from recsys.manifest import MANIFEST, Manifest, damage, describe

LOCAL = fs.LocalFileSystem()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "inner").mkdir()
    (tmp_path / "a").write_text("one")
    (tmp_path / "inner" / "b").write_text("three")
    (tmp_path / MANIFEST).write_text("of before")
    return tmp_path


def test_it_is_of_all_files_but_itself(folder: Path) -> None:
    found = describe(LOCAL, str(folder), key="k", attributes={"n": 1})
    assert list(found.files) == ["a", "inner/b"] and found.size == 8
    assert Manifest.parse(found.to_bytes()) == found
    assert (found.key, found.attributes) == ("k", {"n": 1})


def test_equal_content_has_an_equal_hash_whatever_else_is_said(folder: Path) -> None:
    found = describe(LOCAL, str(folder), key="k", attributes={})
    other = Manifest(files=dict(reversed(found.files.items())), key="another", attributes={"n": 1})
    assert other.content_hash == found.content_hash
    (folder / "a").rename(folder / "c")
    assert describe(LOCAL, str(folder), key="k", attributes={}).content_hash != found.content_hash


def test_what_was_cut_short_anywhere_is_none(folder: Path) -> None:
    data = describe(LOCAL, str(folder), key="k", attributes={}).to_bytes()
    assert all(Manifest.parse(data[:end]) is None for end in range(len(data) - 2))
    assert [Manifest.parse(other) for other in (b"null", b"[]", b"{}", b"\xff")] == [None] * 4


@pytest.mark.parametrize(
    ("harm", "quick", "thorough"),
    [
        (lambda file: None, "", ""),
        (lambda file: file.unlink(), "inner/b is missing", "inner/b is missing"),
        (lambda file: file.write_text("th"), "inner/b has 2 bytes instead of 5", "inner/b has 2 bytes instead of 5"),
        (lambda file: file.write_text("threE"), "", "inner/b does not match its checksum"),
    ],
)
def test_damage_is_told(folder: Path, harm: Callable[[Path], None], quick: str, thorough: str) -> None:
    manifest = describe(LOCAL, str(folder), key="k", attributes={})
    harm(folder / "inner" / "b")
    assert damage(LOCAL, str(folder), manifest, hashes=False) == quick
    assert damage(LOCAL, str(folder), manifest, hashes=True) == thorough
