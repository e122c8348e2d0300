import pyarrow as pa
import pytest

from recsys.data.cleaning import clean_catalogue, clean_title


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        ("Tom &amp; Jerry", "Tom & Jerry"),
        ("12&quot; Ruler &amp;#39;A&amp;#39;", "12\" Ruler 'A'"),
        ("R&B; AT&T Classics &c.", "R&B; AT&T Classics &c."),
        ("  two\t words \xa0\n here ", "two words here"),
        ("CafÃ© MÃ¼ller", "Café Müller"),
        ("It\u00e2\u20ac\u2122s here", "It’s here"),  # UTF-8 read as Windows-1252
        ("Café Müller", "Café Müller"),
        ("Ã la carte", "Ã la carte"),  # odd, but no sure mistake
        ("CafÃ© and Müller", "CafÃ© and Müller"),  # mended, the other word would break
        ("愛の不時着", "愛の不時着"),
        ("a\x00b\x1fc", "a b c"),
        (" \t&nbsp; ", ""),
        ("", ""),
    ],
)
def test_titles(raw: str, cleaned: str) -> None:
    assert clean_title(raw) == cleaned
    assert clean_title(cleaned) == cleaned


def test_catalogue_has_one_row_per_item_and_prefers_a_title() -> None:
    items = pa.table(
        {
            "item_id": ["a", "b", "a", "c", None, "b", "d"],
            "title": ["", "unknown", "A &amp; A", None, "nobody", "B", "D"],
        }
    )
    cleaned, repeats = clean_catalogue(items, placeholders={"unknown"})
    titles = dict(zip(cleaned["item_id"].to_pylist(), cleaned["title"].to_pylist(), strict=True))
    assert titles == {"a": "A & A", "b": "B", "c": "", "d": "D"}
    assert repeats == 2
