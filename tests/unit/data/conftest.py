"""Logs written to files, and a naive preparation in plain Python to compare with."""

from collections import Counter, defaultdict
from pathlib import Path

import pytest

Row = tuple[str, str, int]


@pytest.fixture
def log_file(tmp_path: Path):
    """Write (user, item, timestamp) rows as TSV with a header; gives the path."""

    def write(rows: list[Row], name: str = "log.tsv") -> str:
        path = tmp_path / name
        lines = ["user_id\titem_id\ttimestamp", *("\t".join(map(str, row)) for row in rows)]
        path.write_text("\n".join(lines) + "\n")
        return str(path)

    return write


@pytest.fixture
def naive_sequences():
    """k-core by hand, then users in the order of their first row, each sorted by time: (user, items, times) triples."""

    def build(rows: list[Row], min_user: int, min_item: int) -> list[tuple[str, list[str], list[int]]]:
        kept = list(rows)
        while True:
            users, items = Counter(r[0] for r in kept), Counter(r[1] for r in kept)
            fewer = [r for r in kept if users[r[0]] >= min_user and items[r[1]] >= min_item]
            if len(fewer) == len(kept):
                break
            kept = fewer
        of_user = defaultdict(list)
        for user, item, time in kept:
            of_user[user].append((time, item))
        first = list(dict.fromkeys(r[0] for r in rows))
        result = []
        for user in sorted(of_user, key=first.index):
            ordered = sorted(of_user[user], key=lambda pair: pair[0])  # Python's sort is stable
            result.append((user, [item for _, item in ordered], [time for time, _ in ordered]))
        return result

    return build
