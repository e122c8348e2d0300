"""Where records end, and in which encoding they are, against walks over the bytes."""

import io
import random

import pytest

from recsys.data.readers import records
from recsys.data.readers.records import EncodingTally, open_quote, record_ends


def test_the_tally_of_pieces_is_that_of_the_whole() -> None:
    for text, encoding in (("é" * 5 + "\n", "utf-8"), ("é\n", "latin-1"), ("“\n", "cp1252"), ("é\x81\n", "latin-1")):
        data, pieces = text.encode(encoding) * 3, EncodingTally()
        for line in data.splitlines(keepends=True):
            pieces.add(line)
        whole = EncodingTally()
        whole.add(data)
        assert pieces == whole
        assert data.decode(whole.encoding) == text * 3


def naive_ends(data: bytes) -> tuple[list[int], bool]:
    """Ends of records, and whether a quote is open at last; byte by byte."""
    ends, inside, begins, at = [], False, True, 0
    while at < len(data):
        here, following = data[at : at + 1], data[at + 1 : at + 2]
        if inside and here == b'"':
            inside, at = following == b'"', at + (following == b'"')
        elif inside:
            pass
        elif here == b'"' and begins:
            inside, begins = True, False
        else:
            if here == b"\n" or (here == b"\r" and following not in (b"", b"\n")):
                ends.append(at + 1)
            begins = here in (b",", b"\n", b"\r")
        at += 1
    return ends, inside


def test_records_end_where_a_walk_over_the_bytes_says(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = random.Random(0)
    for size in (2, 3, 8):
        monkeypatch.setattr(records, "TAIL", size)
        for _ in range(250):
            data = "".join(generator.choice('a",\n\r') for _ in range(generator.randrange(1, 25))).encode()
            ends, inside = naive_ends(data)
            assert record_ends(data, ",").tolist() == ends, data
            assert (open_quote(data, ",") is not None) == inside, data
            if b'"' in data and (ends or not inside):
                first = next(records.record_chunks(io.BytesIO(data), len(data), ","))
                assert first == (data[: ends[-1]] if ends else data), data
