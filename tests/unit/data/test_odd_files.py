"""Files that are damaged, or written as few people write them: what they mean, or a line that says what is wrong."""

import csv
import dataclasses
import gzip
import io
import itertools
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.config import from_dict
from recsys.data.config import DataConfig
from recsys.data.prepare import prepare
from recsys.data.prepared import PreparedDataset
from recsys.data.readers import open_source
from recsys.data.readers.times import SECOND
from recsys.errors import UserError

DAY = 86_400
EVENTS = [(f"u{user}", str(item), 1_600_000_000 + DAY * (user + item)) for user in range(4) for item in range(5)]
HEADER = "user_id\titem_id\ttimestamp\n"
LINES = "".join(f"{user}\t{item}\t{time}\n" for user, item, time in EVENTS)


def read(path: Path, said: list[str] | None = None, **values: Any) -> PreparedDataset:
    lowest = {"min_user_interactions": 1, "min_item_interactions": 1}
    config = from_dict(DataConfig, {"source": "table", "path": str(path), **lowest, **values})
    return prepare(config, "test", report=([] if said is None else said).append)


def written(path: Path, data: str | bytes) -> Path:
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def table(path: Path, **columns: Any) -> Path:
    users, items, times = (list(column) for column in zip(*EVENTS, strict=True))
    pq.write_table(pa.table({"user_id": users, "item_id": items, "timestamp": times} | columns), path)
    return path


def refused(path: Path, **values: Any) -> str:
    with pytest.raises(UserError) as caught:
        read(path, **values)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def fingerprint(tmp_path: Path) -> str:
    """Of the events in their plainest form."""
    return read(written(tmp_path / "plain.tsv", HEADER + LINES)).fingerprint


@pytest.mark.parametrize(
    "data",
    [
        ("\ufeff" + HEADER + LINES).encode(),
        (HEADER + LINES).replace("\n", "\r\n").encode(),
        (HEADER + LINES).replace("\n", "\r").encode(),
        (HEADER + LINES).replace("\n", "\r\n", 7).encode(),
        (HEADER + LINES).replace("u1\t", "u1\0\t").encode(),
        (HEADER + LINES).replace("2\t1", "2.0\t1", 2).encode(),
    ],
    ids=["byte order mark", "CRLF", "CR", "mixed line ends", "NUL behind ids", "2 and 2.0"],
)
def test_what_makes_no_difference(tmp_path: Path, fingerprint: str, data: bytes) -> None:
    assert read(written(tmp_path / "log.tsv", data)).fingerprint == fingerprint


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32"])
def test_wide_characters_are_refused(tmp_path: Path, encoding: str) -> None:
    assert "save it as UTF-8" in refused(written(tmp_path / "log.tsv", (HEADER + LINES).encode(encoding)))


def test_a_column_of_whose_name_there_are_two(tmp_path: Path) -> None:
    assert "more than one column 'user_id'" in refused(written(tmp_path / "log.tsv", f"user_id\t{HEADER}"))
    lines = "".join(f"{line}\ta\tb\n" for line in LINES.splitlines())
    assert read(written(tmp_path / "log.tsv", f"{HEADER.strip()}\tnote\tnote\n{lines}")).num_users == 4


def test_a_row_that_is_not_of_the_encoding_is_a_bad_one(tmp_path: Path) -> None:
    data = (HEADER + LINES.replace("u1\t", "josé\t")).encode() + b"u2\xff\t1\t1600000000\n"
    assert "first is line 22 of the interactions (bytes that are not utf-8)" in refused(
        written(tmp_path / "log.tsv", data)
    )
    said: list[str] = []
    dataset = read(tmp_path / "log.tsv", said, max_bad_rows=1)
    assert dataset.user_ids == ["u0", "josé", "u2", "u3"] and len(dataset.items) == len(EVENTS)
    assert any("1 row left out" in line for line in said)


def test_an_encoding_is_said_or_asked_for(tmp_path: Path) -> None:
    text = HEADER + LINES.replace("u1\t", "it’s\t")
    said: list[str] = []
    assert "it’s" in read(written(tmp_path / "log.tsv", text.encode("cp1252")), said).user_ids
    assert any(line.startswith("log.tsv is not UTF-8") and "cp1252" in line for line in said)
    assert "5 rows cannot be parsed" in refused(tmp_path / "log.tsv", encoding="utf-8")
    chinese = written(tmp_path / "gbk.tsv", (HEADER + LINES.replace("u1\t", "汉\t")).encode("gbk"))
    assert "汉" in read(chinese, encoding="gbk").user_ids
    for encoding in ("utf-16", "klingon"):
        assert f"encoding '{encoding}' cannot be read" in refused(chinese, encoding=encoding)


def test_any_cut_of_a_quoted_file_gives_its_rows_and_their_lines(tmp_path: Path) -> None:
    generator = random.Random(1)
    for case in range(25):
        rows = []
        for number in range(generator.randrange(1, 9)):
            pieces = (generator.choice(["a", "é", '"', ",", "\n", "\r\n", "b "]) for _ in range(generator.randrange(9)))
            rows.append((f"u{number % 3}", f"i{number % 4}", number, "".join(pieces)))
        buffer = io.StringIO(newline="")
        writer = csv.writer(buffer, lineterminator="\r\n" if case % 2 else "\n")
        writer.writerows([("user_id", "item_id", "timestamp", "review"), *rows])
        path = written(tmp_path / "log.csv", buffer.getvalue())
        log: Any = open_source(DataConfig(source="table", path=str(path))).log
        log = dataclasses.replace(log, part_bytes=generator.choice([3, 7, 20, 64]))
        found = pa.concat_tables(piece for part in log.parts() for piece in log.parse(part))
        found = found.sort_by("row").to_pydict()
        assert found["problem"] == [None] * len(rows)
        assert found["user_id"] == [row[0] for row in rows] and found["item_id"] == [row[1] for row in rows]
        assert found["timestamp"] == [row[2] * SECOND for row in rows]
        reader = csv.reader(io.StringIO(buffer.getvalue(), newline=""))
        ends = [reader.line_num for _ in reader][:-1]
        assert [log.where(row) for row in found["row"]] == [f"line {end + 1}" for end in ends]


def test_a_quote_that_is_never_closed_is_refused_with_its_line(tmp_path: Path) -> None:
    text = (HEADER + LINES).replace("\t", ",") + 'u1,"1,1600000000\n' + LINES.replace("\t", ",")
    assert "the quote that opens in line 22 is never closed" in refused(written(tmp_path / "log.csv", text))


def test_a_catalogue_that_cannot_be_read_is_the_one_that_is_named(tmp_path: Path) -> None:
    log = written(tmp_path / "log.tsv", HEADER + LINES)
    cut = written(tmp_path / "items.tsv.gz", gzip.compress(b"item_id\ttitle\n" + b"1\tOne\n" * 5000)[:-20])
    assert "items.tsv.gz cannot be read" in refused(log, items_path=str(cut))
    titles = pa.array([b"\xff", b"Two"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"item_id": ["1", "2"], "title": titles}), tmp_path / "items.parquet")
    assert "items.parquet cannot be read" in refused(log, items_path=str(tmp_path / "items.parquet"))


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("user_id", pa.array([{"a": 1}] * len(EVENTS))),
        ("user_id", pa.array([1] * len(EVENTS), pa.timestamp("s"))),
        ("item_id", pa.array([["a"]] * len(EVENTS))),
        ("timestamp", pa.array([True] * len(EVENTS))),
        ("timestamp", pa.array([1] * len(EVENTS), pa.duration("s"))),
        ("timestamp", pa.array([1] * len(EVENTS), pa.time32("s"))),
        ("timestamp", pa.array([b"1"] * len(EVENTS))),
        ("timestamp", pa.nulls(len(EVENTS))),
        ("user_id", pa.nulls(len(EVENTS))),
        ("timestamp", pa.array([2**63 + 1] * len(EVENTS), pa.uint64())),
        ("timestamp", pa.array([b"\xff"] * len(EVENTS), pa.binary()).view(pa.string())),
        ("user_id", pa.array([b"\xff"] * len(EVENTS), pa.binary()).view(pa.string())),
        ("user_id", pa.array([2.0**60] * len(EVENTS))),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else value,
)
def test_columns_that_cannot_be_meant_are_refused_in_a_line(tmp_path: Path, column: str, values: pa.Array) -> None:
    sentence = refused(table(tmp_path / "log.parquet", **{column: values}))
    assert column in sentence or "log.parquet cannot be read: Invalid UTF8" in sentence


@pytest.mark.parametrize(
    "kind", [pa.large_string(), pa.string_view(), pa.binary(), pa.binary(2), pa.dictionary(pa.int8(), pa.string())]
)
def test_the_same_ids_in_other_types(tmp_path: Path, fingerprint: str, kind: pa.DataType) -> None:
    users = pa.array([user for user, _, _ in EVENTS]).cast(pa.binary() if pa.types.is_fixed_size_binary(kind) else kind)
    log = table(tmp_path / "log.parquet", user_id=users.cast(kind))
    assert read(log).fingerprint == fingerprint


@pytest.mark.parametrize("absurd", [0, -1, 10**10, 253_402_300_799])
def test_a_time_that_cannot_be_meant_is_a_bad_row(tmp_path: Path, absurd: int) -> None:
    log = written(tmp_path / "log.tsv", f"{HEADER}{LINES}u3\t1\t{absurd}\n")
    if absurd == 253_402_300_799:  # the last second of 9999; as milliseconds it is a date of 1978
        assert read(log).facts["first_timestamp"] == 253_402_300
        return
    assert "1 row cannot be parsed, the first is line 22" in refused(log)
    assert len(read(log, max_bad_rows=1).items) == len(EVENTS)
    if absurd <= 0:
        assert len(read(log, time_unit="s").items) == len(EVENTS) + 1


def test_a_row_without_a_rating_is_a_bad_one_where_ratings_count(tmp_path: Path) -> None:
    rated = LINES.replace("\n", "\t3\n")
    log = written(tmp_path / "log.tsv", f"{HEADER[:-1]}\tstars\n{rated}u3\t1\t1600000000\t\n")
    asked: dict[str, Any] = {"columns": {"rating": "stars"}, "min_rating": 3}
    assert "1 row cannot be parsed, the first is line 22" in refused(log, **asked)
    assert len(read(log, max_bad_rows=1, **asked).items) == len(EVENTS)
    assert len(read(log).items) == len(EVENTS) + 1


def test_a_unit_is_not_asked_for_where_the_column_says_it(tmp_path: Path) -> None:
    times = pa.array([time for _, _, time in EVENTS], pa.timestamp("s"))
    log = table(tmp_path / "log.parquet", timestamp=times)
    assert "leave out data.time_unit" in refused(log, time_unit="s")


def test_a_catalogue_may_repeat_an_id_in_any_spelling_and_lack_some(tmp_path: Path) -> None:
    log = written(tmp_path / "log.tsv", HEADER + LINES)
    items = written(tmp_path / "items.tsv", "item_id\ttitle\n1\t\n1 \tOne\n1.0\tUno\n0\tNull\n2\tTwo\n\tNobody\n")
    said: list[str] = []
    dataset = read(log, said, items_path=str(items))
    assert dataset.catalogue.titles[1:] == ["Null", "One", "Two", "", ""]
    assert "2 of the log's 5 items are not in the catalogue, such as '3'" in said
    assert "2 repeated catalogue rows left out" in said
    assert "lower data.min_matched (now 0.7)" in refused(log, items_path=str(items), min_matched=0.7)


def test_rows_are_chosen_where_there_is_a_choice() -> None:
    for values in ({"train_rows": "all"}, {"train_rows": "seen", "protocol": "global_time", "every_prefix": True}):
        with pytest.raises(UserError, match="train_rows belongs to protocol=global_time"):
            from_dict(DataConfig, values)


@pytest.mark.parametrize("train_rows", ["rule", "seen", "all"])
def test_choosing_training_rows_leaves_the_others(tmp_path: Path, train_rows: str) -> None:
    generator = random.Random(2)
    rows = [(user, generator.randrange(9), 1_600_000_000 + generator.randrange(99) * DAY) for user in range(30)
            for _ in range(generator.randrange(2, 20))]  # fmt: skip
    log = written(tmp_path / "log.tsv", HEADER + "".join(f"u{u}\ti{i}\t{t}\n" for u, i, t in rows))
    titles = "".join(f"i{number}\tTitle {number}\n" for number in range(9))
    items = str(written(tmp_path / "items.tsv", "item_id\ttitle\n" + titles))
    by_rule = read(log, items_path=items, protocol="global_time")
    dataset = read(log, items_path=items, protocol="global_time", train_rows=train_rows)
    for split in ("valid", "test"):
        assert dataset.rows(split).tolist() == by_rule.rows(split).tolist()
    train, first = dataset.rows("train"), dataset.timestamps[dataset.rows("valid")].min()
    assert set(by_rule.rows("train")) <= set(train)
    assert dataset.timestamps[train].max() <= first
    assert (dataset.fingerprint == by_rule.fingerprint) == (train_rows == "rule")
    same_counts = dataset.catalogue.train_counts.tolist() == by_rule.catalogue.train_counts.tolist()
    assert same_counts == (train_rows != "all"), "`seen` learns from what the rule's training sees"
    held = {int(row) for split in ("valid", "test") for row in dataset.rows(split)}
    for start, end in itertools.pairwise(dataset.offsets):
        targets = [row for row in range(start, end) if row in set(train.tolist())]
        assert not held & set(targets) and start not in targets
