"""MovieLens in its three forms: 100K (`u.data`), `::` files (1M, 10M) and CSV (latest-small, 20M, 25M, 32M)."""

import pyarrow as pa
import pyarrow.compute as pc

from recsys.data.attributes import SEPARATOR, split_values
from recsys.data.config import DataConfig
from recsys.data.readers.delimited import DelimitedLog, Dialect, read_header, read_table
from recsys.data.readers.log import Columns, Rules
from recsys.data.readers.source import Source, as_items, find_file

_RATINGS = Columns(user="user", item="item", timestamp="timestamp", rating="rating")
_CSV_RATINGS = Columns(user="userId", item="movieId", timestamp="timestamp", rating="rating")
_LOG_NAMES = ("user", "item", "rating", "timestamp")
# The flags of u.item, in its order (u.genre).
_GENRES = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy",
    "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip
_U_ITEM = ("item", "title", "released", "video", "url", *_GENRES)
_NO_GENRES = "(no genres listed)"


def files_100k(folder: str) -> tuple[str, str]:
    return find_file(folder, ["u.data"], "MovieLens 100K"), find_file(folder, ["u.item"], "MovieLens 100K")


def open_100k(folder: str, config: DataConfig) -> Source:
    """`u.data` (tabs) and `u.item` (bars, latin-1), neither with quotes or a header."""
    ratings, movies = files_100k(folder)
    items = read_table(movies, Dialect("|", names=_U_ITEM), ["item", "title", *_GENRES], config.encoding)
    named = [pc.if_else(pc.equal(items.table[genre], "1"), genre, "") for genre in _GENRES[1:]]
    genres = pc.binary_join_element_wise(*named, SEPARATOR)
    return Source(
        log=DelimitedLog.open(ratings, Dialect("\t", names=_LOG_NAMES), _RATINGS, Rules.of(config)),
        items=as_items(items.table, "item", "title"),
        bad_items=(items.bad, items.first),
        attributes={"genres": split_values(genres)},
        remarks=items.remarks,
        placeholders=frozenset({"unknown"}),
    )


def files_dat(folder: str) -> tuple[str, str]:
    what = "MovieLens 1M or 10M"
    return find_file(folder, ["ratings.dat"], what), find_file(folder, ["movies.dat"], what)


def open_dat(folder: str, config: DataConfig) -> Source:
    """`ratings.dat` and `movies.dat` with `::` between values; 1M is latin-1, 10M is UTF-8."""
    ratings, movies = files_dat(folder)
    names = ("item", "title", "genres")
    items = read_table(movies, Dialect("::", names=names), list(names), config.encoding)
    return Source(
        log=DelimitedLog.open(ratings, Dialect("::", names=_LOG_NAMES), _RATINGS, Rules.of(config)),
        items=as_items(items.table, "item", "title"),
        bad_items=(items.bad, items.first),
        attributes=_genres(items.table),
        remarks=items.remarks,
    )


def files_csv(folder: str) -> tuple[str, str]:
    what = "MovieLens as CSV"
    return find_file(folder, ["ratings.csv"], what), find_file(folder, ["movies.csv"], what)


def open_csv(folder: str, config: DataConfig) -> Source:
    """`ratings.csv` and `movies.csv` with header lines; a title with a comma is quoted."""
    ratings, movies = files_csv(folder)
    dialect = Dialect(",", quoted=True)
    genres = ["genres"] if "genres" in read_header(movies, dialect, config.encoding)[0] else []
    items = read_table(movies, dialect, ["movieId", "title", *genres], config.encoding)
    return Source(
        log=DelimitedLog.open(ratings, Dialect(",", quoted=True), _CSV_RATINGS, Rules.of(config)),
        items=as_items(items.table, "movieId", "title"),
        bad_items=(items.bad, items.first),
        attributes=_genres(items.table),
        remarks=items.remarks,
        placeholders=frozenset({"(no title)"}),
    )


def _genres(items: pa.Table) -> dict[str, pa.ListArray]:
    if "genres" not in items.column_names:
        return {}
    genres = items["genres"]
    return {"genres": split_values(pc.if_else(pc.equal(genres, _NO_GENRES), "", genres))}
