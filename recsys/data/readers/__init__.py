"""One reader per source format; each gives a `Source`."""

from collections.abc import Callable
from typing import Any

from recsys.data.config import NAMES_ITEMS, DataConfig
from recsys.data.readers.amazon import open_amazon
from recsys.data.readers.movielens import files_100k, files_csv, files_dat, open_100k, open_csv, open_dat
from recsys.data.readers.recbole import files_recbole, open_recbole
from recsys.data.readers.source import Source, describe_file
from recsys.data.readers.table import open_table
from recsys.errors import UserError

__all__ = ["Source", "describe_inputs", "open_source"]

_OPENERS: dict[str, Callable[[str, DataConfig], Source]] = {
    "ml-100k": open_100k,
    "movielens-dat": open_dat,
    "movielens-csv": open_csv,
    "recbole": open_recbole,
    "table": open_table,
    "amazon": open_amazon,
}
_FILES: dict[str, Callable[[str], tuple[str | None, ...]]] = {
    "ml-100k": files_100k,
    "movielens-dat": files_dat,
    "movielens-csv": files_csv,
    "recbole": files_recbole,
}


def open_source(config: DataConfig) -> Source:
    """Open the files of `config.path`; the catalogue is read, the log is not.

    Raises:
        UserError: no path, a missing file or column, or a file that is not of the format.
    """
    describe_inputs(config)
    assert config.path is not None
    try:
        return _OPENERS[config.source](config.path, config)
    except (EOFError, OSError) as error:
        raise UserError(f"{config.path} cannot be read: {error}") from None


def describe_inputs(config: DataConfig) -> list[dict[str, Any]]:
    """Names, sizes and hashes of the files that `open_source` reads.

    Raises:
        UserError: no path, or a file is not there.
    """
    if config.path is None:
        raise UserError(f"data.source={config.source} needs data.path, the folder or file with the data")
    if config.source in NAMES_ITEMS:
        files: tuple[str | None, ...] = (config.path, config.items_path)
    else:
        files = _FILES[config.source](config.path)
    return [describe_file(file) for file in files if file is not None]
