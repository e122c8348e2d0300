"""Wheels from a folder that stands for the package index; `tests/unit/data/test_download.py` reads one."""

import zipfile
from pathlib import Path

import pytest

from recsys import fetching
from recsys.fetching import FetchError, fetch_wheel

FILE = "carrier-1.0-py3-none-any.whl"


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "index"
    folder.mkdir()
    with zipfile.ZipFile(folder / FILE, "w") as archive:
        archive.writestr("carrier-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: carrier\nVersion: 1.0\n")
        archive.writestr(
            "carrier-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr("carrier-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    (tmp_path / "to").mkdir()
    return folder


def test_bytes_are_told_while_they_arrive(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "_LOOK", 0.02)
    (tmp_path / "to" / "part").write_bytes(bytes(1000))
    sizes: list[int] = []
    fetch_wheel("carrier==1.0", tmp_path / "to" / FILE, seconds=60, progress=sizes.append)
    assert (tmp_path / "to" / FILE).read_bytes() == (index / FILE).read_bytes()
    assert sizes[0] >= 1000
    assert sorted(path.name for path in (tmp_path / "to").iterdir()) == [FILE, "part"]


def test_what_cannot_be_had_is_told_in_a_few_words(index: Path, tmp_path: Path) -> None:
    with pytest.raises(FetchError, match=r"pip download failed \(No matching distribution found for carrier==2\.0\)"):
        fetch_wheel("carrier==2.0", tmp_path / "to" / "carrier-2.0-py3-none-any.whl", seconds=60)
    with pytest.raises(FetchError, match="it brought another file"):
        fetch_wheel("carrier==1.0", tmp_path / "to" / "other.whl", seconds=60)
    with pytest.raises(FetchError, match=r"took more than 0\.001 minutes"):
        fetch_wheel("carrier==1.0", tmp_path / "to" / FILE, seconds=0.06)
