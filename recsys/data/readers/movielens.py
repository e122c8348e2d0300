"""MovieLens in its three forms: 100K (`u.data`), `::` files (1M, 10M) and CSV (latest-small, 20M, 25M, 32M)."""

from recsys.data.config import DataConfig
from recsys.data.readers.delimited import DelimitedLog, Dialect, read_table
from recsys.data.readers.log import Columns, Rules
from recsys.data.readers.source import Source, as_items, find_file

_RATINGS = Columns(user="user", item="item", timestamp="timestamp", rating="rating")
_CSV_RATINGS = Columns(user="userId", item="movieId", timestamp="timestamp", rating="rating")
_LOG_NAMES = ("user", "item", "rating", "timestamp")
# Of the flags for genres (0 to 18) only the count matters.
_U_ITEM = ("item", "title", "released", "video", "url", *(f"genre{i}" for i in range(19)))


def files_100k(folder: str) -> tuple[str, str]:
    return find_file(folder, ["u.data"], "MovieLens 100K"), find_file(folder, ["u.item"], "MovieLens 100K")


def open_100k(folder: str, config: DataConfig) -> Source:
    """`u.data` (tabs) and `u.item` (bars, latin-1), neither with quotes or a header."""
    ratings, movies = files_100k(folder)
    items = read_table(movies, Dialect("|", names=_U_ITEM), ["item", "title"], config.encoding)
    return Source(
        log=DelimitedLog.open(ratings, Dialect("\t", names=_LOG_NAMES), _RATINGS, Rules.of(config)),
        items=as_items(items.table, "item", "title"),
        bad_items=(items.bad, items.first),
        remarks=items.remarks,
        placeholders=frozenset({"unknown"}),
    )


def files_dat(folder: str) -> tuple[str, str]:
    what = "MovieLens 1M or 10M"
    return find_file(folder, ["ratings.dat"], what), find_file(folder, ["movies.dat"], what)


def open_dat(folder: str, config: DataConfig) -> Source:
    """`ratings.dat` and `movies.dat` with `::` between values; 1M is latin-1, 10M is UTF-8."""
    ratings, movies = files_dat(folder)
    items = read_table(movies, Dialect("::", names=("item", "title", "genres")), ["item", "title"], config.encoding)
    return Source(
        log=DelimitedLog.open(ratings, Dialect("::", names=_LOG_NAMES), _RATINGS, Rules.of(config)),
        items=as_items(items.table, "item", "title"),
        bad_items=(items.bad, items.first),
        remarks=items.remarks,
    )


def files_csv(folder: str) -> tuple[str, str]:
    what = "MovieLens as CSV"
    return find_file(folder, ["ratings.csv"], what), find_file(folder, ["movies.csv"], what)


def open_csv(folder: str, config: DataConfig) -> Source:
    """`ratings.csv` and `movies.csv` with header lines; a title with a comma is quoted."""
    ratings, movies = files_csv(folder)
    items = read_table(movies, Dialect(",", quoted=True), ["movieId", "title"], config.encoding)
    return Source(
        log=DelimitedLog.open(ratings, Dialect(",", quoted=True), _CSV_RATINGS, Rules.of(config)),
        items=as_items(items.table, "movieId", "title"),
        bad_items=(items.bad, items.first),
        remarks=items.remarks,
        placeholders=frozenset({"(no title)"}),
    )
