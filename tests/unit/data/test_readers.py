"""Each format written by hand in its own quirks, and read back."""

import gzip
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.config import from_dict
from recsys.data.config import DataConfig
from recsys.data.prepare import LocalPartitions
from recsys.data.readers import describe_inputs, open_source
from recsys.data.readers.log import PART_ROWS
from recsys.data.readers.times import SECOND
from recsys.errors import UserError


def write(folder: Path, **files: str | bytes) -> str:
    for name, content in files.items():
        data = content if isinstance(content, bytes) else content.encode()
        (folder / name.replace("__", ".")).write_bytes(data)
    return str(folder)


def read(**config) -> tuple[list[tuple], dict[str, str]]:
    """(user, item, seconds) in the order of the source, and the raw titles."""
    source = open_source(from_dict(DataConfig, config))
    (table,) = LocalPartitions.read(source.log).tables
    assert table["problem"].null_count == len(table), table["problem"].to_pylist()
    assert table["row"].to_pylist() == sorted(set(table["row"].to_pylist()))
    titles = {} if source.items is None else dict(zip(*source.items.to_pydict().values(), strict=True))
    columns = table.select(["user_id", "item_id", "timestamp"]).to_pydict().values()
    return [(user, item, time // SECOND) for user, item, time in zip(*columns, strict=True)], titles


def problems(path: str, part_bytes: int = 1 << 20) -> list[tuple[str, str]]:
    log = open_source(DataConfig(source="table", path=path)).log
    log = replace(log, part_bytes=part_bytes)
    (table,) = LocalPartitions.read(log).tables
    bad = [row for row in table.to_pylist() if row["problem"] is not None]
    assert all(row["user_id"] is None and row["item_id"] is None for row in bad)
    return [(log.where(row["row"]), row["problem"]) for row in bad]


FLAGS = "|".join(["0"] * 19)


def test_movielens_100k(tmp_path) -> None:
    folder = write(
        tmp_path,
        u__data="1\t10\t3\t881250949\n2\t11\t5\t881250949\r\n\n1\t11\t1\t881250950\n",
        u__item=f'10|Amélie "A" (2001)|01-Jan-2001|||{FLAGS}\n11|unknown||||{FLAGS}\n'.encode("latin-1"),
    )
    rows, titles = read(source="ml-100k", path=folder)
    assert rows == [("1", "10", 881250949), ("2", "11", 881250949), ("1", "11", 881250950)]
    assert titles == {"10": 'Amélie "A" (2001)', "11": "unknown"}
    assert read(source="ml-100k", path=folder, min_rating=3)[0] == rows[:2]


@pytest.mark.parametrize("encoding", ["latin-1", "utf-8"])
def test_movielens_dat(tmp_path, encoding) -> None:
    folder = write(
        tmp_path,
        ratings__dat="1::10::5::978300760\n1::11::0.5::978302109\n",
        movies__dat="10::Misérables, Les: One (1995)::Drama|Musical\n11::B (1999)::Comedy\n".encode(encoding),
    )
    rows, titles = read(source="movielens-dat", path=folder)
    assert rows == [("1", "10", 978300760), ("1", "11", 978302109)]
    assert titles == {"10": "Misérables, Les: One (1995)", "11": "B (1999)"}
    assert read(source="movielens-dat", path=folder, min_rating=1)[0] == rows[:1]


def test_movielens_csv(tmp_path) -> None:
    folder = write(
        tmp_path,
        ratings__csv="userId,movieId,rating,timestamp\n1,10,4.0,964982703\n1,11,4.5,964981247\n",
        movies__csv='movieId,title,genres\n10,"American ""President"", The (1995)",Drama\n11,Héat,Action\n',
    )
    rows, titles = read(source="movielens-csv", path=folder)
    assert rows == [("1", "10", 964982703), ("1", "11", 964981247)]
    assert titles == {"10": 'American "President", The (1995)', "11": "Héat"}


def test_recbole_atomic_files(tmp_path) -> None:
    folder = write(
        tmp_path,
        films__inter="user_id:token\titem_id:token\trating:float\ttimestamp:float\n1\t10\t3\t881250949\n2\t11\t4\t8.8e8\n",
        films__item="item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
        '10\t"Toy" Story\t1995\tAnimation\n11\tunkonwn\tunkonwn\tunknown\n12\tThree (1995)\tV\tDrama\n',
    )
    rows, titles = read(source="recbole", path=folder)
    assert rows == [("1", "10", 881250949), ("2", "11", 880000000)]
    assert titles == {"10": '"Toy" Story (1995)', "11": "unkonwn", "12": "Three (1995) (V)"}
    assert read(source="recbole", path=folder, min_rating=4)[0] == rows[1:]


def test_recbole_without_items_or_with_another_title_column(tmp_path) -> None:
    folder = write(tmp_path, x__inter="user_id:token\titem_id:token\ttimestamp:float\n1\t10\t3\n")
    assert read(source="recbole", path=folder) == ([("1", "10", 3)], {})
    write(tmp_path, x__item="item_id:token\tbrand:token\n10\tAcme\n")
    with pytest.raises(UserError, match=r"x.item has no column 'title'; its columns are 'item_id', 'brand'"):
        read(source="recbole", path=folder)
    assert read(source="recbole", path=folder, columns={"title": "brand"})[1] == {"10": "Acme"}


def test_genres_of_movielens(tmp_path) -> None:
    flags = ["0"] * 19
    flags[8] = flags[14] = "1"
    ratings = {"u__data": "1\t10\t3\t881250949\n", "ratings__csv": "userId,movieId,rating,timestamp\n1,10,4.0,9\n"}
    folder = write(
        tmp_path,
        **ratings,
        ratings__dat="1::10::5::978300760\n",
        u__item=f"10|A (2001)||||{'|'.join(flags)}\n11|unknown||||1|{'|'.join(flags[1:8])}{'|0' * 11}\n",
        movies__dat="10::A::Drama|Romance\n11::B::\n",
        movies__csv="movieId,title,genres\n10,A,Drama|Romance\n11,B,(no genres listed)\n",
    )
    for source in ("ml-100k", "movielens-dat", "movielens-csv"):
        genres = open_source(DataConfig(source=source, path=folder)).attributes["genres"]
        assert genres.to_pylist() == [["Drama", "Romance"], []], source
    write(tmp_path, movies__csv="movieId,title\n10,A\n")
    assert open_source(DataConfig(source="movielens-csv", path=folder)).attributes == {}


def test_attributes_of_recbole_files(tmp_path) -> None:
    folder = write(
        tmp_path,
        x__inter="user_id:token\titem_id:token\ttimestamp:float\n1\t10\t3\n",
        x__item="item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\tbrand:token\n"
        "10\tToy Story\t1995\tAnimation Children's\tTwo Words|x\n",
    )
    columns = {"attributes": ["class", "brand", "release_year"]}
    source = open_source(from_dict(DataConfig, {"source": "recbole", "path": folder, "columns": columns}))
    assert {name: values.to_pylist() for name, values in source.attributes.items()} == {
        "class": [["Animation", "Children's"]],
        "brand": [["Two Words", "x"]],
        "release_year": [["1995"]],
    }


@pytest.mark.parametrize("suffix", ["tsv", "tsv.gz", "csv", "csv.gz", "parquet"])
def test_tables(tmp_path, suffix) -> None:
    log = {"when": [5, 7], "who": ["a", "b"], "what": ["x", 'y"1'], "extra": ["", ""]}
    items = {"what": ["x", 'y"1'], "name": ['12" disc, long', "Ünder\xa0"]}
    paths = {}
    for name, columns in (("log", log), ("items", items)):
        path = paths[name] = str(tmp_path / f"{name}.{suffix}")
        if suffix == "parquet":
            pq.write_table(pa.table(columns), path)
            continue
        comma = suffix.startswith("csv")
        lines = [",".join(columns) if comma else "\t".join(columns)]
        for row in zip(*columns.values(), strict=True):
            values = ['"' + str(v).replace('"', '""') + '"' if comma else str(v) for v in row]
            lines.append(("," if comma else "\t").join(values))
        data = ("\ufeff" + "\r\n".join(lines) + "\r\n").encode()
        Path(path).write_bytes(gzip.compress(data) if suffix.endswith("gz") else data)
    config = {
        "source": "table",
        "path": paths["log"],
        "items_path": paths["items"],
        "columns": {"user": "who", "item": "what", "timestamp": "when", "title": "name"},
    }
    assert read(**config) == ([("a", "x", 5), ("b", 'y"1', 7)], {"x": '12" disc, long', 'y"1': "Ünder\xa0"})
    described = describe_inputs(from_dict(DataConfig, config))
    assert [file["name"] for file in described] == [f"log.{suffix}", f"items.{suffix}"]
    assert str(tmp_path) not in str(described)
    config["columns"] = {**config["columns"], "user": "nobody"}
    with pytest.raises(UserError, match=r"has no column 'nobody'; its columns are 'when', 'who', 'what', 'extra'"):
        read(**config)


def test_a_table_without_times_keeps_the_order_of_the_file(log_file) -> None:
    path = log_file([("a", "x", 5), ("a", "y", 1)])
    assert read(source="table", path=path, columns={"timestamp": None})[0] == [("a", "x", 0), ("a", "y", 0)]


def test_parquet_types(tmp_path) -> None:
    path = str(tmp_path / "log.parquet")
    table = pa.table(
        {
            "user_id": pa.array([1.0, 2.0], pa.float64()),
            "item_id": pa.array(["x", "y"]).dictionary_encode(),
            "timestamp": pa.array([1_500_000, 2_999_999], pa.timestamp("us")),
        }
    )
    pq.write_table(table, path, row_group_size=1)
    assert read(source="table", path=path)[0] == [("1", "x", 1), ("2", "y", 2)]


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("part_bytes", [1 << 20, 16])
def test_bad_rows_are_found_with_their_lines(tmp_path, compressed, part_bytes) -> None:
    text = "user_id\titem_id\ttimestamp\na\tx\t1\nb\tx\n\nc\tx\tsoon\n\td\t4\ne\tx\t5\nf\tx\t6\t7\ng\tx\t8"
    path = tmp_path / ("log.tsv.gz" if compressed else "log.tsv")
    path.write_bytes(gzip.compress(text.encode()) if compressed else text.encode())
    found = problems(str(path), part_bytes)
    assert sorted(line for line, _ in found) == ["line 3", "line 5", "line 6", "line 8"]
    texts = " ".join(text for _, text in found)
    assert "not as many values as there are columns" in texts
    assert "user_id='c', item_id='x', timestamp='soon'" in texts


def test_parts_cover_the_file_once(tmp_path, log_file) -> None:
    rows = [(f"u{i % 7}", f"i{i % 5}", i) for i in range(1000)]
    path = log_file(rows)
    log = open_source(DataConfig(source="table", path=path)).log
    small = replace(log, part_bytes=100)
    parts = small.parts()
    assert len(parts) > 50
    tables = [table for part in parts for table in small.parse(part)]
    table = pa.concat_tables(tables)
    found = [tuple(row.values())[:3] for row in table.to_pylist()]
    assert found == [(user, item, time * SECOND) for user, item, time in rows]
    assert table["row"][0].as_py() == 0
    assert table["row"][-1].as_py() // PART_ROWS == parts[-1].index
    assert small.where(table["row"][-1].as_py()) == "line 1001"


def test_a_damaged_archive_is_said_so(tmp_path) -> None:
    good = gzip.compress(b"user_id\titem_id\ttimestamp\n" + b"a\tb\t1\n" * 5000)
    for data in (good[: len(good) // 2], b"plain text"):
        path = tmp_path / "log.tsv.gz"
        path.write_bytes(data)
        try:
            found = problems(str(path))
        except UserError as error:
            assert "cannot be read" in str(error)
        else:
            assert "cannot be read" in found[-1][1]


def test_what_is_not_there(tmp_path) -> None:
    with pytest.raises(UserError, match=r"needs data\.path"):
        open_source(DataConfig(source="movielens-csv"))
    with pytest.raises(UserError, match="does not exist"):
        open_source(DataConfig(path=str(tmp_path / "nowhere")))
    with pytest.raises(UserError, match=r"holds no u\.data"):
        open_source(DataConfig(path=str(tmp_path)))
    with pytest.raises(UserError, match=r"holds 0 \.inter files"):
        open_source(DataConfig(source="recbole", path=str(tmp_path)))
    with pytest.raises(UserError, match="is not a file"):
        open_source(DataConfig(source="table", path=str(tmp_path / "no.csv")))
    (tmp_path / "log.xlsx").write_bytes(b"")
    with pytest.raises(UserError, match=r"should end in \.csv"):
        open_source(DataConfig(source="table", path=str(tmp_path / "log.xlsx")))
    (tmp_path / "log.parquet").write_bytes(b"no parquet")
    with pytest.raises(UserError, match="cannot be read as Parquet"):
        open_source(DataConfig(source="table", path=str(tmp_path / "log.parquet")))


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"items_path": "x"}, "items_path belongs to source=table"),
        ({"every_prefix": True}, "every_prefix belongs to protocol=global_time"),
        ({"columns": {"user": "u"}}, "columns belong to source=table or recbole"),
        ({"source": "table", "min_rating": 3}, r"min_rating needs columns\.rating"),
    ],
)
def test_settings_that_would_be_ignored_are_refused(values, sentence) -> None:
    with pytest.raises(UserError, match=sentence):
        from_dict(DataConfig, values)
