"""Cleaning of titles and of the catalogue. What is not surely wrong stays as it is."""

import html
import re
from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc

_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
# A lead byte of UTF-8 and a following byte, both read as if they were latin-1 or Windows-1252.
_MOJIBAKE = re.compile(
    r"[\u00c2-\u00f4][\u0080-\u00bf\u0152\u0153\u0160\u0161\u0178\u017d\u017e\u0192\u02c6\u02dc\u2013-\u2122]"
)
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


def clean_title(title: str) -> str:
    """A title as a person would write it; "" where nothing is left, which means that it is missing.

    HTML entities are resolved (twice, for `&amp;quot;`), runs of white space become one blank, and UTF-8 that was read
    as latin-1 is mended where the whole title, taken as bytes, is valid UTF-8: a title that meant its odd characters
    would not be.

    >>> clean_title("  Tom &amp; Jerry:\\tThe Caf\\u00c3\\u00a9 ")
    'Tom & Jerry: The Café'
    """
    for _ in range(2):
        if "&" in title and _ENTITY.search(title):
            title = html.unescape(title)
    if not title.isascii() and _MOJIBAKE.search(title):
        title = _mend(title)
    return " ".join(_CONTROL.sub(" ", title).split())


def clean_catalogue(items: pa.Table, placeholders: Iterable[str] = ()) -> tuple[pa.Table, int]:
    """One row per item id, titles cleaned.

    Of several rows with the same id the first with a title counts. Rows without an id are left out.

    Args:
        items: columns `item_id` (normalised) and `title`, nulls allowed.
        placeholders: titles that mean "no title" in this source.

    Returns:
        the table, and how many rows were left out as repeats.
    """
    missing = set(placeholders)
    ids = pc.fill_null(items["item_id"], "")
    cleaned = [clean_title(title) for title in pc.fill_null(items["title"], "").to_pylist()]
    titles = pa.array(["" if title in missing else title for title in cleaned], pa.string())
    table = pa.table({"item_id": ids, "title": titles, "untitled": pc.equal(titles, ""), "row": range(len(ids))})
    table = table.filter(pc.not_equal(table["item_id"], ""))
    table = table.sort_by([("untitled", "ascending"), ("row", "ascending")])
    best = table.group_by("item_id", use_threads=False).aggregate([("title", "first"), ("row", "min")])
    best = best.sort_by("row_min")
    return best.select(["item_id", "title_first"]).rename_columns(["item_id", "title"]), len(table) - len(best)


def _mend(title: str) -> str:
    for encoding in ("cp1252", "latin-1"):
        try:
            return title.encode(encoding).decode("utf-8")
        except UnicodeError:
            continue
    return title
