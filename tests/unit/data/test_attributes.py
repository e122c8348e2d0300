import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.config import from_dict
from recsys.data.attributes import Attributes, split_values
from recsys.data.config import ColumnsConfig, DataConfig
from recsys.data.prepare import prepare
from recsys.data.prepared import ATTRIBUTES, Catalogue, PreparedDataset
from recsys.errors import UserError

GENRES = [["Drama", "Comedy"], None, ["Comedy"], [], ["Horror", "Drama"]]


@pytest.fixture
def attributes() -> Attributes:
    return Attributes.of_items({"genres": pa.array(GENRES), "brand": pa.array([["A"], ["B"], None, None, ["A"]])})


def test_texts_are_split_and_cleaned() -> None:
    texts = pa.chunked_array([["Drama|Comedy", "", None], ["Tom &amp; Co | Drama|Drama|", " | "]])
    assert split_values(texts).to_pylist() == [["Drama", "Comedy"], [], [], ["Tom & Co", "Drama"], []]
    assert split_values(pa.array(["a b", "c"]), " ").to_pylist() == [["a", "b"], ["c"]]
    assert split_values(pa.array([1997, None])).to_pylist() == [["1997"], []]
    assert split_values(pa.array([["a|b ", None], None])).to_pylist() == [["a|b"], []]


def test_items_are_found_by_any_of_the_values(attributes: Attributes) -> None:
    def naive(*wanted: str) -> list[int]:
        return [item for item, values in enumerate(GENRES, 1) if set(values or ()) & set(wanted)]

    for wanted in (("Drama",), ("Comedy",), ("Drama", "Comedy"), ("Horror", "Drama"), ()):
        items, unknown = attributes.items_with("genres", wanted)
        assert (items.tolist(), unknown) == (naive(*wanted), [])
    items, unknown = attributes.items_with("genres", ["Dramma", "Horror", "x"])
    assert (items.tolist(), unknown) == ([5], ["Dramma", "x"])
    with pytest.raises(UserError, match="items have no attribute 'colour'; known: genres, brand"):
        attributes.items_with("colour", ["red"])
    with pytest.raises(UserError, match=r"known: none; data\.columns\.attributes names what to keep"):
        Attributes().require(["colour"])


def test_values_of_items(attributes: Attributes) -> None:
    assert attributes.of([3, 1, 4]) == [{"genres": ["Comedy"]}, {"genres": ["Drama", "Comedy"], "brand": ["A"]}, {}]
    assert attributes.of([0]) == [{}] and Attributes().of([1, 2]) == [{}, {}]


def test_further_items_have_none(attributes: Attributes) -> None:
    rows = range(1, len(next(iter(attributes.columns.values()))) + 2)
    assert attributes.extend(2).of(rows) == [*attributes.of(rows[:-2]), {}, {}]


def test_a_catalogue_keeps_them_in_a_file_of_their_own(attributes: Attributes, tmp_path: Path) -> None:
    ids = ["", *"abcde"]
    plain = Catalogue(item_ids=ids, titles=["", *"ABCDE"], train_counts=np.arange(6))
    rich = Catalogue(item_ids=ids, titles=["", *"ABCDE"], train_counts=np.arange(6), attributes=attributes)
    assert plain.hash == rich.hash, "a model that was trained without them fits"
    contents = []
    for name, catalogue in (("plain", plain), ("rich", rich)):
        (tmp_path / name).mkdir()
        path = tmp_path / name / "items.parquet"
        catalogue.write(path)
        contents.append(path.read_bytes())
        read = Catalogue.read(path).attributes
        assert read.names == catalogue.attributes.names
        assert read.of(range(1, 6)) == catalogue.attributes.of(range(1, 6))
    assert contents[0] == contents[1] and not (tmp_path / "plain" / ATTRIBUTES).exists()
    table = pq.read_table(tmp_path / "rich" / ATTRIBUTES)
    pq.write_table(table.slice(1), tmp_path / "rich" / ATTRIBUTES)
    with pytest.raises(UserError, match="has 4 items instead of 5"):
        Catalogue.read(tmp_path / "rich" / "items.parquet")


def test_they_come_from_the_log_s_catalogue_to_the_dataset(fixture_data: Path, tmp_path: Path) -> None:
    dataset = prepare(DataConfig(path=str(fixture_data)), "tiny", report=lambda _: None)
    dataset.write(str(tmp_path / "dataset"))
    catalogue = PreparedDataset.load(str(tmp_path / "dataset")).catalogue
    for title, found in zip(catalogue.titles[1:], catalogue.attributes.of(range(1, len(catalogue) + 1)), strict=True):
        (genre,) = found["genres"]
        assert f": {genre} Part" in title or not title


@pytest.fixture
def shop(tmp_path: Path) -> dict[str, object]:
    """Interactions of a table; the catalogue is to be written to `items.csv`."""
    rows = [f"u{user},{item},{time}" for user in range(6) for time, item in enumerate("abcdef")]
    (tmp_path / "log.csv").write_text("\n".join(["user_id,item_id,timestamp", *rows]) + "\n")
    return {"source": "table", "path": str(tmp_path / "log.csv"), "items_path": str(tmp_path / "items.csv")}


def test_of_several_rows_the_first_with_a_value_counts(shop: dict[str, object], tmp_path: Path) -> None:
    lines = ["item_id,title,brand,group", "z,Z,,", "a,A,,x|y", "a,A,Acme,z", "b,B,Béta,", "c,,,x", "d,D,Acme,x", "f,,,"]
    (tmp_path / "items.csv").write_text("\n".join(lines) + "\n")
    config = from_dict(DataConfig, {**shop, "columns": {"attributes": ["brand", "group"]}})
    catalogue = prepare(config, "shop", report=lambda _: None).catalogue
    found = dict(zip(catalogue.item_ids[1:], catalogue.attributes.of(range(1, len(catalogue) + 1)), strict=True))
    assert json.loads(json.dumps(found)) == {
        "a": {"brand": ["Acme"], "group": ["x", "y"]},
        "b": {"brand": ["Béta"]},
        "c": {"group": ["x"]},
        "d": {"brand": ["Acme"], "group": ["x"]},
        "e": {},
        "f": {},
    }


def test_lists_in_parquet(shop: dict[str, object], tmp_path: Path) -> None:
    table = pa.table({"item_id": ["a", "b"], "title": ["A", "B"], "tags": [["x", "y"], None], "size": [[1], [2]]})
    pq.write_table(table, tmp_path / "items.parquet")
    given = {**shop, "items_path": str(tmp_path / "items.parquet"), "min_matched": 0.0}
    config = from_dict(DataConfig, {**given, "columns": {"attributes": ["tags", "size"]}})
    catalogue = prepare(config, "shop", report=lambda _: None).catalogue
    assert catalogue.attributes.of([1, 2, 3]) == [{"tags": ["x", "y"], "size": ["1"]}, {"size": ["2"]}, {}]
    pq.write_table(table.set_column(2, "tags", [[True, False]]), tmp_path / "items.parquet")
    with pytest.raises(UserError, match=r"'tags' .* is of type bool; attributes are text, or lists of text"):
        prepare(config, "shop", report=lambda _: None)


def test_columns_that_cannot_be_kept_are_one_sentence(shop: dict[str, object], tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text("item_id,title\na,A\n")
    with pytest.raises(UserError, match="has no column 'brand'; its columns are 'item_id', 'title'"):
        prepare(from_dict(DataConfig, {**shop, "columns": {"attributes": ["brand"]}}), "shop", report=lambda _: None)
    with pytest.raises(ValueError, match="name its file in items_path"):
        DataConfig(source="table", path="x.csv", columns=ColumnsConfig(attributes=("brand",)))
    with pytest.raises(ValueError, match="name a column twice: brand, brand"):
        ColumnsConfig(attributes=("brand", "brand"))
