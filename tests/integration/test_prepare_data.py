"""Preparation as a Ray Data job gives what one process gives, and leaves nothing behind when it refuses."""

from dataclasses import replace
from pathlib import Path

import pytest

from ray_jobs.cluster.partitions import RayPartitions
from ray_jobs.on_ray import OnRay
from recsys.config import from_dict
from recsys.data.config import DataConfig
from recsys.data.prepare import prepare as prepare_dataset
from recsys.data.prepared import PreparedDataset
from recsys.errors import UserError
from recsys.settings import Settings
from recsys.stages import prepare
from recsys.tracking import TrackingConfig

pytestmark = pytest.mark.ray


def settings(tmp_path: Path, **data) -> Settings:
    return Settings(
        name="test",
        storage=str(tmp_path / "storage"),
        data=from_dict(DataConfig, data),
        tracking=TrackingConfig(uri="none"),
    )


def test_the_job_equals_one_process_and_skips_what_is_done(ray_session, tmp_path, fixture_data, capsys) -> None:
    asked = settings(tmp_path, path=str(fixture_data))
    dataset = prepare.make(asked, executor=OnRay())
    alone = prepare_dataset(asked.data, "test", report=lambda _: None)
    assert dataset.fingerprint == alone.fingerprint
    assert dataset.describe() == alone.describe()
    output = capsys.readouterr().out
    assert "80 users, 60 items, 1,409 interactions" in output
    assert prepare.make(asked, executor=OnRay()).fingerprint == dataset.fingerprint
    output = capsys.readouterr().out
    assert "is up to date" in output
    assert "k-core" not in output
    prepare.make(asked, force=True, executor=OnRay())
    assert "k-core" in capsys.readouterr().out


def test_many_parts_and_partitions_give_the_same_dataset(ray_session, fixture_data) -> None:
    config = DataConfig(path=str(fixture_data), protocol="global_time", max_history=10)
    alone = prepare_dataset(config, "test", report=lambda _: None)

    def read(log):
        return RayPartitions.read(replace(log, part_bytes=6_000), partition_bytes=9_000)

    assert prepare_dataset(config, "test", read=read, report=lambda _: None).fingerprint == alone.fingerprint


def test_bad_input_leaves_nothing(ray_session, tmp_path) -> None:
    folder = tmp_path / "raw"
    folder.mkdir()
    log = folder / "log.csv"
    log.write_text(
        "user_id,item_id,timestamp\n" + "".join(f"u{i % 9},i{i % 7},{i}\n" for i in range(200)) + "u1,i1,?\n"
    )
    with pytest.raises(UserError, match=r"1 row cannot be parsed, the first is line 202 .*timestamp='\?'"):
        prepare.make(settings(tmp_path, source="table", path=str(log)), executor=OnRay())
    (folder / "log.csv.gz").write_bytes(log.read_bytes())
    with pytest.raises(UserError, match=r"cannot be read"):
        prepare.make(settings(tmp_path, source="table", path=f"{log}.gz"), executor=OnRay())
    storage = tmp_path / "storage"
    assert not storage.exists() or not list(storage.rglob("*.parquet"))
    dataset = prepare.make(settings(tmp_path, source="table", path=str(log), max_bad_rows=1), executor=OnRay())
    assert PreparedDataset.load(settings(tmp_path).layout.dataset).fingerprint == dataset.fingerprint
