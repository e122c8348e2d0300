"""Pages: what is given as text stays text, and nothing outside the file is needed."""

import re
from html.parser import HTMLParser

from recsys.evaluation.page import facts, figure, page, paragraph, section, table

HOSTILE = "<b>&\"'</b>"


class Reader(HTMLParser):
    """Counts elements and keeps text and attributes."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.values: list[str | None] = []
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.values += [value for _, value in attrs]
        if tag not in ("meta",):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_text_is_no_markup() -> None:
    body = [paragraph(HOSTILE), facts([(HOSTILE, HOSTILE)]), figure("<svg></svg>", "<svg></svg>", HOSTILE, HOSTILE)]
    found = Reader(page(HOSTILE, [section(HOSTILE, *body, table(HOSTILE, ["a", HOSTILE], [["x", "y"]]))]))
    assert "b" not in found.tags and not found.open
    assert found.texts.count(HOSTILE) == 8
    assert found.values.count(HOSTILE) == 4, "labels of pictures and tables, and of a cell"


def test_no_other_file_is_needed() -> None:
    assert not re.search(r"https?://|url\(|@import|<link|<script", page("t", []))


def test_a_table_names_its_rows_and_marks_the_strong_ones() -> None:
    rows = [["one", "1"], ["two", '<td class="text">2</td>']]
    found = table("c", ["name", "value"], rows, strong=[False, True])
    assert '<th scope="row">one</th><td data-label="value">1</td>' in found
    assert '<tr class="strong"><th scope="row">two</th><td class="text">2</td></tr>' in found
    assert found.count("<tr") == 3 and 'role="region"' in found
    cards = table("c", ["name", "value"], rows, kind="cards")
    assert '<table class="cards"><caption>c</caption>' in cards and "region" not in cards
