"""Fetching without a network: archives made here stand for the real ones, and a folder for the package index."""

import hashlib
import zipfile
from pathlib import Path

import pytest

from recsys.data import download
from recsys.data.config import DataConfig
from recsys.data.download import Archive, locate
from recsys.data.prepare import prepare
from recsys.errors import UserError


def as_recbole(folder: Path) -> dict[str, str]:
    """The tiny fixture in the way the recbole wheel carries MovieLens 100K."""
    ratings = (folder / "u.data").read_text()
    films = [line.split("|") for line in (folder / "u.item").read_text(encoding="latin-1").splitlines()]
    lines = ["item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq"]
    for item, title, *_ in films:
        words, _, year = title.rpartition(" ") if title != "unknown" else ("unkonwn", "", "unkonwn")
        lines.append(f"{item}\t{words}\t{year.strip('()')}\tDrama")
    return {
        "ml-100k.inter": "user_id:token\titem_id:token\trating:float\ttimestamp:float\n" + ratings,
        "ml-100k.item": "\n".join(lines) + "\n",
    }


@pytest.fixture
def index(carry, monkeypatch, fixture_data) -> Path:
    """A package index with a `recbole` that carries the tiny fixture; gives its folder."""
    real = download.RECBOLE
    texts = as_recbole(fixture_data).items()
    members = {f"recbole/dataset_example/ml-100k/{name}": text.encode() for name, text in texts}
    wheel = carry(real.file, download.RECBOLE_REQUIREMENT, members)
    monkeypatch.setattr(download, "GROUPLENS_URL", "http://127.0.0.1:9/ml-100k.zip")  # nobody listens
    stand_in = Archive(real.file, hashlib.sha256(wheel.read_bytes()).hexdigest(), real.members, real.source)
    monkeypatch.setattr(download, "RECBOLE", stand_in)
    return wheel.parent


def test_a_path_of_the_user_comes_first(tmp_path) -> None:
    config = DataConfig(path=str(tmp_path), cache=str(tmp_path / "cache"))
    assert locate(config) is config
    assert not (tmp_path / "cache").exists()


def test_the_wheel_is_used_where_only_a_package_index_is_reachable(index, tmp_path, fixture_data) -> None:
    config = DataConfig(cache=str(tmp_path / "cache"))
    said: list[str] = []
    found = locate(config, report=said.append)
    assert found.source == "recbole"
    assert any("GroupLens is out of reach" in line for line in said)
    from_wheel = prepare(found, "a", report=said.append)
    original = prepare(DataConfig(path=str(fixture_data)), "a", report=said.append)
    assert from_wheel.fingerprint == original.fingerprint
    assert from_wheel.titles_hash == original.titles_hash

    said.clear()
    assert locate(config, report=said.append).path == found.path
    assert len(said) == 1
    assert "of the cache" in said[0]

    cached = tmp_path / "cache" / download.RECBOLE.file
    cached.write_bytes(cached.read_bytes()[:-10])
    said.clear()
    assert locate(config, report=said.append).path == found.path
    assert "is damaged and is fetched again" in said[0]
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == [cached.stem, cached.name]


def test_a_wheel_with_another_checksum_is_refused(index, tmp_path, monkeypatch) -> None:
    real = download.RECBOLE
    monkeypatch.setattr(download, "RECBOLE", Archive(real.file, "0" * 64, real.members, real.source))
    said: list[str] = []
    with pytest.raises(UserError, match=r"cannot be fetched.*set data\.path"):
        locate(DataConfig(cache=str(tmp_path / "cache")), report=said.append)
    assert any("instead of 000000000000" in line for line in said)
    assert not any((tmp_path / "cache").iterdir())


def test_the_archive_of_grouplens_is_taken_from_the_cache(tmp_path, monkeypatch, fixture_data) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    with zipfile.ZipFile(cache / download.GROUPLENS.file, "w") as archive:
        for name in ("u.data", "u.item"):
            archive.write(fixture_data / name, f"ml-100k/{name}")
    digest = hashlib.sha256((cache / download.GROUPLENS.file).read_bytes()).hexdigest()
    real = download.GROUPLENS
    monkeypatch.setattr(download, "GROUPLENS", Archive(real.file, digest, real.members, real.source))
    found = locate(DataConfig(cache=str(cache), download=False), report=lambda _: None)
    assert found.source == "ml-100k"
    assert prepare(found, "a", report=lambda _: None).num_users == 80


def test_without_cache_and_without_leave_to_fetch(tmp_path) -> None:
    with pytest.raises(UserError, match=r"is not in the cache .*data\.download=true"):
        locate(DataConfig(cache=str(tmp_path), download=False))


def test_the_cache_follows_the_environment(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert download.cache_folder(DataConfig()) == tmp_path / "recsys-distill"
    assert download.cache_folder(DataConfig(cache="~/x")) == Path("~/x").expanduser()
