"""The whole preparation against plain Python, and the ways in which it refuses."""

import random
from collections import Counter

import numpy as np
import pytest

from recsys.config import from_dict
from recsys.data.config import DataConfig
from recsys.data.partition import bucket_of
from recsys.data.prepare import LocalPartitions, input_key, prepare
from recsys.errors import UserError


def quiet(_: str) -> None:
    pass


@pytest.fixture
def rows():
    """Some users and items too rare to stay, repeats, and many equal times."""
    generator = random.Random(3)
    return [
        (
            f"u{min(int(generator.expovariate(0.08)), 60)}",
            f"i{min(int(generator.expovariate(0.1)), 40)}",
            generator.randrange(40),
        )
        for _ in range(900)
    ]


def hashed(count: int):
    """Read a log into `count` partitions by the hash of the user."""

    def read(log):
        (table,) = LocalPartitions.read(log).tables
        buckets = bucket_of(table["user_id"], count)
        return LocalPartitions([table.filter(buckets == number) for number in range(count)])

    return read


@pytest.mark.parametrize(("min_user", "min_item"), [(5, 5), (1, 1), (12, 20)])
def test_agrees_with_plain_python(rows, log_file, naive_sequences, min_user, min_item) -> None:
    config = DataConfig(
        source="table", path=log_file(rows), min_user_interactions=min_user, min_item_interactions=min_item
    )
    dataset = prepare(config, "test", report=quiet)
    expected = naive_sequences(rows, min_user, min_item)
    assert dataset.user_ids == [user for user, _, _ in expected]
    ids = np.array(dataset.catalogue.item_ids)
    for (_, items, times), start, end in zip(expected, dataset.offsets[:-1], dataset.offsets[1:], strict=True):
        assert ids[dataset.items[start:end]].tolist() == items
        assert dataset.timestamps[start:end].tolist() == times
    left = {item for _, items, _ in expected for item in items}
    assert dataset.catalogue.item_ids[1:] == [item for item in dict.fromkeys(r[1] for r in rows) if item in left]
    seen = Counter(item for _, items, _ in expected for item in (items[:-2] if len(items) > 3 else []))
    short = Counter(item for _, items, _ in expected for item in (items if len(items) == 2 else []))
    assert dict(zip(ids[1:], dataset.catalogue.train_counts[1:].tolist(), strict=True)) == {
        item: (seen + short)[item] for item in ids[1:]
    }


def test_dropping_goes_on_until_nothing_changes(log_file, naive_sequences) -> None:
    """Without x user v1 has too few items, without v1 item y, and so on along the chain."""
    core = [(f"u{user}", item, time) for user in range(3) for time, item in enumerate("pqrs")]
    chain = [("v1", "x", 1), ("v1", "y", 2), ("v2", "y", 3), ("v2", "z", 4), ("v3", "z", 5), ("v3", "w", 6)]
    config = DataConfig(source="table", path=log_file(chain + core), min_user_interactions=2, min_item_interactions=2)
    dataset = prepare(config, "test", report=quiet)
    assert [user for user, _, _ in naive_sequences(chain + core, 2, 2)] == dataset.user_ids == ["u0", "u1", "u2"]
    assert dataset.catalogue.item_ids == ["", *"pqrs"]


def test_rows_may_arrive_in_any_order(rows, log_file) -> None:
    config = DataConfig(source="table", path=log_file(rows))

    def shuffled(log):
        (table,) = LocalPartitions.read(log).tables
        return LocalPartitions([table.take(np.random.default_rng(0).permutation(len(table)))])

    whole, other = prepare(config, "test", report=quiet), prepare(config, "test", read=shuffled, report=quiet)
    assert other.fingerprint == whole.fingerprint


def test_any_number_of_partitions_gives_the_same_dataset(rows, log_file) -> None:
    config = DataConfig(source="table", path=log_file(rows))
    whole = prepare(config, "test", report=quiet)
    for count in (2, 7, 200):
        other = prepare(config, "test", read=hashed(count), report=quiet)
        assert other.fingerprint == whole.fingerprint
        assert (other.timestamps == whole.timestamps).all()
        assert (other.catalogue.train_counts == whole.catalogue.train_counts).all()


def test_the_tiny_fixture(fixture_data) -> None:
    said: list[str] = []
    dataset = prepare(DataConfig(path=str(fixture_data)), "tiny", report=said.append)
    assert (dataset.num_users, dataset.num_items) == (80, 60)
    assert dataset.facts["interactions"] == len(dataset.items) == 1409
    assert "Tom & Zoé Go Wrong: Comedy Part 1 (1980)" in dataset.catalogue.titles
    assert dataset.catalogue.titles[dataset.catalogue.index["60"]] == ""
    assert dataset.facts["missing_titles"] == 1 / 60
    assert said[-1].startswith("k-core pass")


def test_global_time_drops_items_without_a_title(tmp_path, rows, log_file, naive_sequences) -> None:
    titles = tmp_path / "items.tsv"
    untitled = {"i0", "i3"}
    lines = [f"i{n}\t{'X' if f'i{n}' in untitled else f'Title {n}'}" for n in range(39)]  # i39, i40 are not there
    titles.write_text("\n".join(["item_id\ttitle", *lines]) + "\n")
    config = DataConfig(
        source="table",
        path=log_file(rows),
        items_path=str(titles),
        protocol="global_time",
        min_user_interactions=2,
        min_item_interactions=2,
        max_history=10,
    )
    dataset = prepare(config, "test", report=quiet)
    kept = [row for row in rows if row[1] not in untitled | {"i39", "i40"}]
    assert dict(zip(dataset.user_ids, np.diff(dataset.offsets).tolist(), strict=True)) == {
        user: len(items) for user, items, _ in naive_sequences(kept, 2, 2)
    }
    targets = [dataset.timestamps[dataset.rows(split)] for split in ("train", "valid", "test")]
    assert targets[0].max() <= targets[1].min()
    assert targets[1].max() <= targets[2].min()
    assert dataset.protocol == "global_time"


def test_bad_rows_are_counted_and_limited(rows, log_file) -> None:
    broken = [*rows[:10], ("u1", "i1", "yesterday"), *rows[10:], ("", "i1", 5)]
    path = log_file(broken)
    with pytest.raises(
        UserError, match=r"^2 rows cannot be parsed, the first is line 12 of .*'yesterday'.*max_bad_rows"
    ):
        prepare(DataConfig(source="table", path=path), "test", report=quiet)
    said: list[str] = []
    tolerant = prepare(DataConfig(source="table", path=path, max_bad_rows=2), "test", report=said.append)
    assert any("2 rows left out" in line for line in said)
    assert (
        tolerant.fingerprint
        == prepare(DataConfig(source="table", path=log_file(rows, "good.tsv")), "test", report=quiet).fingerprint
    )


def test_a_bad_catalogue_row_counts_as_well(tmp_path, rows, log_file) -> None:
    items = tmp_path / "items.tsv"
    items.write_text("item_id\ttitle\ni1\tOne\ni2\tTwo\tmore\n")
    config = {"source": "table", "path": log_file(rows), "items_path": str(items)}
    with pytest.raises(UserError, match=r"1 row cannot be parsed, the first is line 3 of the items"):
        prepare(from_dict(DataConfig, config), "test", report=quiet)


@pytest.mark.parametrize("kept", [0, 8])
def test_too_little_data_is_refused(rows, log_file, kept) -> None:
    path = log_file(rows[:kept])
    with pytest.raises(UserError, match=r"holds no interactions|give more data"):
        prepare(DataConfig(source="table", path=path), "test", report=quiet)


def test_global_time_needs_times(log_file, rows) -> None:
    config = {"source": "table", "path": log_file(rows), "columns": {"timestamp": None}, "protocol": "global_time"}
    with pytest.raises(UserError, match="needs times"):
        prepare(from_dict(DataConfig, config), "test", report=quiet)


def test_the_key_follows_content_and_configuration_but_not_the_place(rows, log_file, tmp_path) -> None:
    config = DataConfig(source="table", path=log_file(rows))
    key = input_key(config, "test")
    (tmp_path / "elsewhere").mkdir()
    assert key == input_key(DataConfig(source="table", path=log_file(rows, "elsewhere/log.tsv")), "test")
    assert key != input_key(DataConfig(source="table", path=config.path, max_history=7), "test")
    assert key != input_key(DataConfig(source="table", path=log_file(rows[1:], "elsewhere/log.tsv")), "test")
    assert input_key(DataConfig(), "a") != input_key(DataConfig(), "b")
