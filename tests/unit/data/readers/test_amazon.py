"""Files as they are published, a few records each, and files that are damaged."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from recsys.config import from_dict
from recsys.data.config import DataConfig
from recsys.data.prepare import prepare
from recsys.data.prepared import PreparedDataset
from recsys.data.readers.amazon import read_record
from recsys.data.readers.times import SECOND
from recsys.errors import UserError

DAY = 86_400
EVENTS = [(f"U{user}", f"B00{item}", 1_400_000_000 + DAY * (user + item)) for user in range(4) for item in range(5)]
FIRST = {"helpful": [0, 1], "reviewText": 'It\'s a "good" one\nreally', "overall": 4.0, "reviewTime": "05 13, 2014"}


def reviews(year: str) -> list[dict[str, Any]]:
    """Later ones first, as nobody promises an order."""
    if year == "2023":
        made = [
            {"rating": 4.0, "title": "Fine", "text": "…", "asin": f"{item}X", "parent_asin": item, "user_id": user,
             "timestamp": time * 1000 + 7, "verified_purchase": True}
            for user, item, time in EVENTS
        ]  # fmt: skip
    else:
        made = [{**FIRST, "reviewerID": user, "asin": item, "unixReviewTime": time} for user, item, time in EVENTS]
    return made[::-1]


def metadata(year: str) -> list[dict[str, Any]]:
    items = sorted({item for _, item, _ in EVENTS})
    if year == "2023":
        return [
            {
                "main_category": "Beauty",
                "title": f"Soap {n}",
                "store": "Acme",
                "categories": ["Bath"],
                "parent_asin": item,
            }
            for n, item in enumerate(items)
        ]
    categories = {"2014": {"categories": [["Beauty", "Bath"], ["Gifts"]]}, "2018": {"category": ["Beauty", "Bath"]}}[
        year
    ]
    return [{"asin": item, "title": f"Soap {n}", "brand": "Acme", **categories} for n, item in enumerate(items)]


def write(path: Path, records: list[dict[str, Any]], *, python: bool = False) -> str:
    text = "".join(f"{record!r}\n" if python else f"{json.dumps(record)}\n" for record in records)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return str(path)


def read(path: Path | str, **values: Any) -> PreparedDataset:
    lowest = {"min_user_interactions": 1, "min_item_interactions": 1}
    config = from_dict(DataConfig, {"source": "amazon", "path": str(path), **lowest, **values})
    return prepare(config, "test", report=[].append)


def refused(path: Path | str, **values: Any) -> str:
    with pytest.raises(UserError) as caught:
        read(path, **values)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def sequences(dataset: PreparedDataset) -> dict[str, list[str]]:
    return {user_id: dataset.sequence_ids(user) for user, user_id in enumerate(dataset.user_ids)}


EXPECTED = {f"U{user}": [f"B00{item}" for item in range(5)] for user in range(4)}


@pytest.mark.parametrize(
    ("year", "names", "python"),
    [
        ("2014", ("reviews_Beauty_5.json.gz", "meta_Beauty.json.gz"), (False, True)),
        ("2014", ("reviews_Beauty.json.gz", "meta_Beauty.json"), (True, True)),
        ("2018", ("All_Beauty_5.json.gz", "meta_All_Beauty.json.gz"), (False, False)),
        ("2023", ("All_Beauty.jsonl.gz", "meta_All_Beauty.jsonl"), (False, False)),
    ],
)
def test_every_year(tmp_path: Path, year: str, names: tuple[str, str], python: tuple[bool, bool]) -> None:
    log = write(tmp_path / names[0], reviews(year), python=python[0])
    catalogue = write(tmp_path / names[1], metadata(year), python=python[1])
    dataset = read(log, items_path=catalogue)
    assert sequences(dataset) == EXPECTED
    times = dict(zip(dataset.sequence_ids(0), dataset.timestamps[dataset.sequence(0)].tolist(), strict=True))
    assert times["B003"] == next(t for u, i, t in EVENTS if (u, i) == (dataset.user_ids[0], "B003"))
    assert dataset.catalogue.title("B002") == "Soap 2"
    (known,) = dataset.catalogue.attributes.of([dataset.catalogue.index["B001"]])
    wanted = {"2014": ["Beauty", "Bath", "Gifts"], "2018": ["Beauty", "Bath"], "2023": ["Bath"]}[year]
    assert known == {"brand": ["Acme"], "categories": wanted}
    assert read(log).catalogue.titles[1:] == [""] * 5, "without metadata there are no titles"


def test_ratings_are_those_of_the_year(tmp_path: Path) -> None:
    for year, name in (("2014", "overall"), ("2023", "rating")):
        made = [{**each, name: 2.0 if n % 5 == 4 else 5.0} for n, each in enumerate(reviews(year))]
        path = write(tmp_path / f"{year}.json", made)
        assert {len(each) for each in sequences(read(path, min_rating=3)).values()} == {4}


def test_records_are_values_and_never_run(tmp_path: Path) -> None:
    marker = tmp_path / "was-run"
    evil = f"{{'asin': __import__('os').mkdir({str(marker)!r}), 'reviewerID': 'x', 'unixReviewTime': 1}}"
    for line in (
        evil,
        "[1, 2]",
        "{1",
        "__import__('os')",
        "{'a': " + "-" * 100_000 + "1}",
        "[" * 5000,
        "{" + "'a'" * (1 << 20),
    ):
        with pytest.raises(ValueError, match=r"neither JSON nor a Python dictionary|no record of fields"):
            read_record(line)
    assert read_record("{'a': (1, [None]), \"b\": 'it''s'}") == {"a": (1, [None]), "b": "its"}
    path = Path(write(tmp_path / "log.json", reviews("2014")))
    path.write_text(path.read_text() + evil + "\n")
    assert "1 row cannot be parsed, the first is line 21 of the interactions (it is neither JSON" in refused(path)
    assert sequences(read(path, max_bad_rows=1)) == EXPECTED
    assert not marker.exists()


def test_titles_of_2018_that_are_scripts_are_missing(tmp_path: Path) -> None:
    made = metadata("2018")
    made[1]["title"] = "var aPageStart = (new Date()).getTime();\nvar ue_t0=ue_t0||+new Date();"
    made[2].pop("title")
    log, catalogue = write(tmp_path / "log.json", reviews("2018")), write(tmp_path / "meta.json", made)
    dataset = read(log, items_path=catalogue)
    assert [dataset.catalogue.title(f"B00{n}") for n in range(4)] == ["Soap 0", "", "", "Soap 3"]


@pytest.mark.parametrize("which", ["log", "metadata"])
def test_a_truncated_archive_is_refused(tmp_path: Path, which: str) -> None:
    random = [{**each, "reviewText": os.urandom(3000).hex()} for each in reviews("2014")]
    log = Path(write(tmp_path / "log.json.gz", random))
    catalogue = Path(write(tmp_path / "meta.json.gz", [{**m, "x": os.urandom(3000).hex()} for m in metadata("2014")]))
    broken = log if which == "log" else catalogue
    broken.write_bytes(broken.read_bytes()[:-4000])
    said = refused(log, items_path=str(catalogue), max_bad_rows=1000)
    assert f"{broken.name} cannot be read: " in said


def test_files_of_another_kind_are_refused(tmp_path: Path) -> None:
    log, catalogue = write(tmp_path / "log.json", reviews("2014")), write(tmp_path / "meta.json", metadata("2014"))
    said = refused(catalogue)
    assert said.startswith(
        "meta.json holds no Amazon reviews: its first record has the fields 'asin', 'title', 'brand'"
    )
    assert said.endswith("(2014 or 2018: reviewerID, asin, unixReviewTime; 2023: user_id, parent_asin, timestamp)")
    (tmp_path / "log.tsv").write_text("user_id\titem_id\ttimestamp\nu\ti\t1\n")
    assert "holds no Amazon reviews: of line 1, it is neither JSON nor a Python dictionary" in refused(
        tmp_path / "log.tsv"
    )
    (tmp_path / "empty.json").write_text("\n\n")
    assert refused(tmp_path / "empty.json").endswith("empty.json holds no records")
    nameless = write(tmp_path / "nameless.json", [{"name": "x"}])
    assert refused(log, items_path=nameless).startswith("nameless.json holds no Amazon metadata")
    assert "is not a file" in refused(tmp_path / "none.json")
    with pytest.raises(UserError, match="columns belong to source=table or recbole"):
        from_dict(DataConfig, {"source": "amazon", "path": log, "columns": {"user": "x"}})
    (tmp_path / "wide.json").write_bytes(Path(log).read_text().encode("utf-16"))
    assert "is UTF-16 or no text at all" in refused(tmp_path / "wide.json")


def test_records_that_lack_a_field_are_counted(tmp_path: Path) -> None:
    made = reviews("2014")
    made[3].pop("reviewerID")
    made[7]["asin"] = ["B001"]
    made[9]["unixReviewTime"] = "soon"
    said = refused(write(tmp_path / "log.json", made))
    assert "3 rows cannot be parsed, the first is line 4 of the interactions (reviewerID=None, asin='B001'" in said
    kept = sum(len(each) for each in sequences(read(tmp_path / "log.json", max_bad_rows=3)).values())
    assert kept == len(made) - 3
    meta = metadata("2018")
    text = "".join(json.dumps(each) + "\n" for each in meta[:2]) + "oops\n" + json.dumps(meta[2]) + "\n"
    (tmp_path / "meta.json").write_text(text)
    said = refused(write(tmp_path / "whole.json", reviews("2014")), items_path=str(tmp_path / "meta.json"))
    assert "1 row cannot be parsed, the first is line 3 of the items" in said


def test_broken_bytes_in_what_nobody_reads_change_nothing(tmp_path: Path) -> None:
    """Mixed encodings: a byte of another one counts only in an id or a title."""
    lines = Path(write(tmp_path / "log.json", reviews("2014"))).read_bytes().splitlines(keepends=True)
    lines[2] = lines[2].replace(b"good", b"g\xf6\xf6d")
    lines[4] = lines[4].replace(b"good", "göd und schön übel".encode())
    (tmp_path / "log.json").write_bytes(b"".join(lines))
    assert sequences(read(tmp_path / "log.json")) == EXPECTED
    lines[5] = lines[5].replace(b'"U', b'"\xdc')
    (tmp_path / "log.json").write_bytes(b"".join(lines))
    assert "1 row cannot be parsed, the first is line 6" in refused(tmp_path / "log.json")


def test_a_file_of_another_encoding_is_told(tmp_path: Path) -> None:
    made = metadata("2014")
    made[0]["title"] = "Crème brûlée"
    catalogue = tmp_path / "meta.json"
    catalogue.write_bytes("".join(f"{each!r}\n" for each in made).encode("cp1252"))
    said: list[str] = []
    lowest = {"min_user_interactions": 1, "min_item_interactions": 1, "items_path": str(catalogue)}
    log = write(tmp_path / "log.json", reviews("2014"))
    dataset = prepare(from_dict(DataConfig, {"source": "amazon", "path": log, **lowest}), "test", report=said.append)
    assert dataset.catalogue.title("B000") == "Crème brûlée"
    assert "meta.json is not UTF-8 (3 bytes are not): read as cp1252" in said


def test_a_large_log_is_read_in_parts(tmp_path: Path) -> None:
    from dataclasses import replace

    from recsys.data.prepare import LocalPartitions
    from recsys.data.readers import open_source

    path = write(tmp_path / "log.json", reviews("2014"))
    log = replace(open_source(DataConfig(source="amazon", path=path)).log, part_bytes=500)
    assert len(log.parts()) > 5
    (table,) = LocalPartitions.read(log).tables
    assert isinstance(table, pa.Table)
    found = zip(*(table[name].to_pylist() for name in ("user_id", "item_id", "timestamp")), strict=True)
    assert [(user, item, time // SECOND) for user, item, time in found] == EVENTS[::-1]
    assert table["row"].to_pylist() == sorted(table["row"].to_pylist())
    assert log.where(table["row"][11].as_py()) == "line 12"


def test_the_job_says_one_line_and_writes_nothing(project_root: Path, tmp_path: Path) -> None:
    path = Path(write(tmp_path / "log.json.gz", [{**e, "x": os.urandom(2000).hex()} for e in reviews("2014")]))
    path.write_bytes(path.read_bytes()[:-3000])
    code = (
        "from recsys.config import load_config\nfrom recsys.settings import Settings\n"
        "from recsys.stages import prepare\nfrom recsys.stages.executor import InProcess\nfrom ray_jobs import cli\n"
        "import sys\ncli.run_job('', lambda s, a: prepare.make(s, InProcess()), ray=False)"
    )
    storage = tmp_path / "runs"
    arguments = ["--storage", str(storage), "data.source=amazon", f"data.path={path}", "tracking.uri=none", "name=shop"]
    done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=project_root, capture_output=True, text=True)
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith(f"error: {path} cannot be read: ")
    assert not (storage / "shop" / "dataset").exists()
