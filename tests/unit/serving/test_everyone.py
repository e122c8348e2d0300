from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.data.prepared import PreparedDataset
from recsys.errors import UserError
from recsys.serving.everyone import LISTED_SCHEMA, SCHEMA, ListedUsers, StoredUsers, Users, read_users, recommend_table
from recsys.serving.recommender import Recommender


@pytest.mark.parametrize("mask_seen", [True, False])
@pytest.mark.parametrize("batch_size", [1, 5, 100])
def test_the_table_holds_what_each_history_alone_is_recommended(
    recommender: Recommender, dataset: PreparedDataset, batch_size: int, mask_seen: bool
) -> None:
    users = StoredUsers(dataset).read(0, dataset.num_users)
    table = recommend_table(recommender, users, 7, mask_seen=mask_seen, batch_size=batch_size)
    assert table.schema == SCHEMA and table["user"].to_pylist() == dataset.user_ids
    for row, history in zip(table.to_pylist(), users.histories, strict=True):
        (alone,) = recommender.rank([history], 7, mask_seen=mask_seen)
        assert row["items"] == alone.items
        assert row["scores"] == pytest.approx(alone.scores, abs=1e-5)
        assert not row["fallback"] and row["checkpoint"] == recommender.checkpoint.hash


def test_users_of_a_dataset_are_shown_with_all_they_met(dataset: PreparedDataset) -> None:
    users = StoredUsers(dataset).read(3, 5)
    assert list(users.ids) == ["u3", "u4"] and users.times is not None
    for number, history, times in zip((3, 4), users.histories, users.times, strict=True):
        own = slice(dataset.offsets[number], dataset.offsets[number + 1])
        assert history == [f"i{n}" for n in dataset.items[own]] and times == dataset.timestamps[own].tolist()


def test_who_has_met_nothing_known_gets_popular_items(recommender: Recommender, dataset: PreparedDataset) -> None:
    users = Users(["new", "strange", "old"], [[], ["nobody"], ["i1"]])
    new, strange, old = recommend_table(recommender, users, 3).to_pylist()
    popular = [dataset.catalogue.item_ids[i] for i in dataset.catalogue.popular()[:3]]
    assert new["items"] == strange["items"] == popular and new["fallback"] and strange["fallback"]
    assert old["items"] == recommender.recommend([["i1"]], 3)[0] and not old["fallback"]


def test_listed_users_are_read_from_any_place(tmp_path: Path) -> None:
    table = pa.table([[f"u{n}" for n in range(10)], [["i1"] * n for n in range(10)]], schema=LISTED_SCHEMA)
    pq.write_table(table, tmp_path / "users.parquet", row_group_size=4)
    source = ListedUsers(str(tmp_path / "users.parquet"))
    for first, last in ((0, 4), (4, 8), (8, 10), (3, 9), (0, 10), (5, 6)):
        users = source.read(first, last)
        assert list(users.ids) == [f"u{n}" for n in range(first, last)]
        assert list(users.histories) == [["i1"] * n for n in range(first, last)] and users.times is None


@pytest.mark.parametrize("name", ["users.csv", "users.tsv", "users.parquet", "numbers.parquet"])
def test_users_are_read_from_files(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if path.suffix == ".parquet":
        histories = [[1, 2], [], None] if name.startswith("numbers") else [["1", "2.0 "], [], None]
        pq.write_table(pa.table({"history": histories, "user": ["a", "b", "c"], "more": [1, 2, 3]}), path)
    else:
        comma = "," if name.endswith("csv") else "\t"
        lines = [["user", "more", "history"], ["a", "x", " 1  2 "], ["b", "x", ""], ["c", "x", ""]]
        path.write_text("\n".join(comma.join(line) for line in lines))
    read = read_users(str(path))
    assert read.schema == LISTED_SCHEMA
    assert read["user"].to_pylist() == ["a", "b", "c"]
    assert [[i for i in history if i] for history in read["history"].to_pylist()] == [["1", "2"], [], []]


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("none.csv", None, r"none.csv cannot be read"),
        ("none.parquet", None, r"none.parquet cannot be read"),
        ("u.csv", "user,items\na,b", r"u.csv has no column 'history'"),
        ("u.csv", "user,history\na,b\nc", r"1 rows have not as many values as there are columns, the first is line 3"),
        ("u.parquet", {"user": ["a"], "history": [1.5]}, "column 'history' of .* is of type double; give lists of ids"),
        ("u.parquet", {"user": ["a"], "history": [[True]]}, "'history' of u.parquet is of type bool; ids are text"),
        ("u.parquet", {"user": [[1]], "history": [["1"]]}, r"'user' of u.parquet is of type list<.*; ids are text"),
    ],
)
def test_files_without_users_are_refused(tmp_path: Path, name: str, content: object, sentence: str) -> None:
    if isinstance(content, str):
        (tmp_path / name).write_text(content)
    elif content:
        pq.write_table(pa.table(content), tmp_path / name)
    with pytest.raises(UserError, match=sentence):
        read_users(str(tmp_path / name))
