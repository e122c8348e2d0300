"""Data as other people write it: read as it was meant, or refused in a line."""

import dataclasses
import itertools
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from recsys.config import from_dict
from recsys.data.config import DataConfig
from recsys.data.ids import normal_id
from recsys.data.prepare import LocalPartitions, prepare
from recsys.data.prepared import PreparedDataset
from recsys.data.splits import every_interaction, global_time
from recsys.errors import UserError
from recsys.evaluation.baselines import RecentPopularity

ROOT = Path(__file__).resolve().parents[3]
USERS, ITEMS = 6, 5


def events(time: Any = lambda number: number + 1) -> list[tuple[str, str, Any]]:
    """Every user meets every item, in an order of the user's own."""
    generator = random.Random(0)
    found = []
    for user in range(USERS):
        items = generator.sample(range(ITEMS), ITEMS)
        found += [(f"u{user}", f"{item}", time(number)) for number, item in enumerate(items)]
    return found


def write(path: Path, rows: list[tuple[Any, ...]], header: str = "user_id\titem_id\ttimestamp", sep: str = "\t") -> str:
    lines = [header.replace("\t", sep), *(sep.join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def read(path: str, read: Any = LocalPartitions.read, **values: Any) -> PreparedDataset:
    lowest = {"min_user_interactions": 1, "min_item_interactions": 1}
    config = from_dict(DataConfig, {"source": "table", "path": path, **lowest, **values})
    return prepare(config, "test", read=read, report=lambda _: None)


def sequences(dataset: PreparedDataset) -> dict[str, list[str]]:
    ids = dataset.catalogue.item_ids
    ends = zip(dataset.user_ids, dataset.offsets[:-1], dataset.offsets[1:], strict=True)
    return {user: [ids[i] for i in dataset.items[start:end]] for user, start, end in ends}


def test_blanks_around_ids_are_no_part_of_them(tmp_path) -> None:
    log = write(tmp_path / "log.tsv", [(u, f"{i} ", t) for u, i, t in events()])
    items = write(tmp_path / "items.tsv", [(f"{i} ", f"Title {i}") for i in range(ITEMS)], "item_id\ttitle")
    dataset = read(log, items_path=items)
    assert sorted(dataset.catalogue.titles[1:]) == [f"Title {i}" for i in range(ITEMS)]
    assert dataset.catalogue.number(" 3 ") == dataset.catalogue.index["3"], "a request is read alike"


@pytest.mark.parametrize(("written", "meant"), [("cafe\u0301", "café"), ("\ufeffa", "a"), ("7.0", "7"), ("007", "007")])
def test_one_rule_for_ids(written: str, meant: str) -> None:
    assert normal_id(written) == meant


def test_whole_floats_of_a_table_are_the_catalogue_s_numbers(tmp_path) -> None:
    rows = events()
    table = pa.table({
        "user_id": [u for u, _, _ in rows],
        "item_id": pa.array([float(i) for _, i, _ in rows]),
        "timestamp": [t for _, _, t in rows],
    })  # fmt: skip
    pq.write_table(table, tmp_path / "log.parquet")
    items = write(tmp_path / "items.tsv", [(i, f"Title {i}") for i in range(ITEMS)], "item_id\ttitle")
    assert "" not in read(str(tmp_path / "log.parquet"), items_path=items).catalogue.titles[1:]


def test_a_catalogue_of_other_ids_is_refused_with_one_of_each(tmp_path) -> None:
    log = write(tmp_path / "log.tsv", events())
    items = write(tmp_path / "items.tsv", [(f"B00{i}", f"Title {i}") for i in range(ITEMS)], "item_id\ttitle")
    with pytest.raises(UserError, match=r"5 of the log's 5 items are not in the catalogue, such as '\d', .*'B00\d'"):
        read(log, items_path=items)
    assert read(log, items_path=items, min_matched=0).num_items == ITEMS
    some = write(tmp_path / "some.tsv", [(i, f"Title {i}") for i in range(4)], "item_id\ttitle")
    assert read(log, items_path=some, min_matched=0.8).num_items == ITEMS, "4 of 5 are enough"
    with pytest.raises(UserError, match=r"1 of the log's 5 items are not in the catalogue"):
        read(log, items_path=some, min_matched=0.81)


def test_a_stray_byte_far_away_leaves_the_encoding_of_a_file(tmp_path) -> None:
    rows = [("josé", i, t) if u == "u0" else (u, i, t) for u, i, t in events()]
    path = tmp_path / "log.tsv"
    write(path, [(*row, "fine") for row in rows], "user_id\titem_id\ttimestamp\tnote")
    path.write_bytes(path.read_bytes() + b"u1\t1\t99\tcaf\xe9\n")
    assert "josé" in read(str(path), max_bad_rows=1).user_ids


def test_a_file_in_latin_1_is_told_by_its_bytes(tmp_path) -> None:
    rows = [("josé", i, t) if u == "u0" else (u, i, t) for u, i, t in events()]
    write(tmp_path / "log.tsv", rows)
    latin = tmp_path / "latin.tsv"
    latin.write_bytes((tmp_path / "log.tsv").read_text().encode("latin-1"))
    assert "josé" in read(str(latin)).user_ids


def test_line_breaks_in_quotes_may_lie_at_the_cut_of_a_part(tmp_path) -> None:
    rows = [(*row, f'"they said ""{"x" * 20}""\nand, again:\n\nall of it"') for row in events()]
    path = write(tmp_path / "log.csv", rows, "user_id\titem_id\ttimestamp\treview", sep=",")
    whole = sequences(read(path))
    assert {len(items) for items in whole.values()} == {ITEMS} and len(whole) == USERS

    for size in (40, 97, 300):

        def split(log: Any, size: int = size) -> LocalPartitions:
            return LocalPartitions.read(dataclasses.replace(log, part_bytes=size))

        assert sequences(read(path, read=split)) == whole


@pytest.mark.parametrize("factor", [10**3, 10**6, 10**9])
def test_a_time_s_unit_is_told_by_its_size(tmp_path, factor: int) -> None:
    def day(number: int) -> int:
        return 1_600_000_000 + number * 86_400 * 20

    seconds = read(write(tmp_path / "s.tsv", events(day)))
    finer = read(write(tmp_path / "finer.tsv", events(lambda number: day(number) * factor)))
    assert finer.fingerprint == seconds.fingerprint
    np.testing.assert_array_equal(finer.timestamps, seconds.timestamps)
    recent = [RecentPopularity.fit(dataset, 30).scores for dataset in (seconds, finer)]
    assert recent[0].equal(recent[1])


@pytest.mark.parametrize("kind", ["text", "float", "timestamp"])
def test_order_within_a_second_is_kept(tmp_path, kind: str) -> None:
    rows = events(lambda number: 1_600_000_000 + number / 5)
    shuffled = random.Random(1).sample(rows, len(rows))
    if kind == "text":
        path = write(tmp_path / "log.tsv", shuffled)
    else:
        times: Any = pa.array([t for _, _, t in shuffled])
        if kind == "timestamp":
            times = pa.array([round(t * 1000) for _, _, t in shuffled]).cast(pa.timestamp("ms"))
        table = {"user_id": [u for u, _, _ in shuffled], "item_id": [i for _, i, _ in shuffled], "timestamp": times}
        pq.write_table(pa.table(table), tmp_path / "log.parquet")
        path = str(tmp_path / "log.parquet")
    found = sequences(read(path))
    assert found == {f"u{user}": [i for u, i, _ in rows if u == f"u{user}"] for user in range(USERS)}


@pytest.mark.parametrize("kind", [pa.list_(pa.string()), pa.bool_(), pa.struct([("a", pa.int8())])])
def test_columns_that_hold_no_ids_are_refused_in_a_line(tmp_path, kind: pa.DataType) -> None:
    value: Any = ["a"] if pa.types.is_list(kind) else True if pa.types.is_boolean(kind) else {"a": 1}
    table = pa.table({"user_id": pa.array([value] * 9, kind), "item_id": ["1"] * 9, "timestamp": list(range(9))})
    pq.write_table(table, tmp_path / "log.parquet")
    with pytest.raises(UserError, match="user_id") as caught:
        read(str(tmp_path / "log.parquet"))
    assert "\n" not in str(caught.value)


def test_too_few_rows_for_a_validation_are_refused(tmp_path) -> None:
    log = write(tmp_path / "log.tsv", [("u", i, i) for i in range(7)])
    items = write(tmp_path / "items.tsv", [(i, f"Title {i}") for i in range(7)], "item_id\ttitle")
    with pytest.raises(UserError, match=r"validation and .* test rows, and each needs some"):
        read(log, items_path=items, protocol="global_time")


def test_the_paper_s_split_by_its_configuration(tmp_path) -> None:
    """The rule of BIGRec, counted by hand: targets from the min(10, n − 1)-th on, titles of one character dropped."""
    lengths = [3, 12, 14, 2, 11]
    rows, time = [], 0
    for user, length in enumerate(lengths):
        for number in range(length):
            time += 1
            rows.append((f"u{user}", f"i{(user * 5 + number) % 20}", time))
    rows += [("u9", "short", 1), ("u9", "i1", 2)]  # leaves one event of u9, which is no row
    log = write(tmp_path / "log.tsv", rows)
    titles = [(f"i{i}", f"Title {i}") for i in range(20)] + [("short", "x")]
    items = write(tmp_path / "items.tsv", titles, "item_id\ttitle")
    shipped = yaml.safe_load((ROOT / "ray_jobs" / "configs" / "paper-toys.yaml").read_text())["data"]
    config = from_dict(DataConfig, {**shipped, "path": log, "items_path": items})
    dataset = prepare(config, "test", report=lambda _: None)
    assert dataset.num_items == 20
    expected = sum(length - min(10, length - 1) for length in lengths)
    assert sum(len(dataset.rows(split)) for split in ("train", "valid", "test")) == expected
    assert dataset.max_history == 10


@pytest.mark.parametrize("unseen_users", [False, True])
def test_every_interaction_that_training_may_see(unseen_users: bool) -> None:
    generator = np.random.default_rng(0)
    lengths = generator.integers(1, 30, 40)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    timestamps = np.concatenate([np.sort(generator.integers(0, 500, n)) for n in lengths])
    rows = global_time(offsets, timestamps)
    found = set(every_interaction(offsets, timestamps, rows, unseen_users=unseen_users).tolist())
    first = timestamps[rows["valid"]].min()
    train = set(rows["train"].tolist())
    expected = set()
    for start, end in itertools.pairwise(offsets):
        last = max((row for row in train if start <= row < end), default=-1)
        for row in range(start + 1, end):
            chosen = timestamps[row] < first or row in train if unseen_users else row <= last
            if chosen:
                expected.add(row)
    assert found == expected
    assert train <= found and not found & set(rows["valid"].tolist()) and not found & set(rows["test"].tolist())
