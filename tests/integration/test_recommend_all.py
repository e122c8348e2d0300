"""Recommendations for everyone on Ray Data: the same as in one process, a killed run continued."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from ray_jobs.on_ray import OnRay
from recsys import storage
from recsys.checkpoint import save_checkpoint
from recsys.config import load_config
from recsys.data.config import DataConfig
from recsys.data.prepare import prepare
from recsys.errors import UserError
from recsys.serving.everyone import StoredUsers, recommend_table
from recsys.serving.recommender import Recommender
from recsys.settings import Settings
from recsys.stages import recommendations
from recsys.students.config import SASRecConfig
from recsys.students.sasrec import SASRec

pytestmark = pytest.mark.ray


def test_everyone_is_recommended_for_once(
    fixture_data: Path, tmp_path: Path, ray_session: None, capfd: pytest.CaptureFixture[str]
) -> None:
    options = ["name=p", "tracking.uri=none", "recommendations={k: 4, users_per_shard: 16, actors: 2, batch_size: 8}"]
    settings = load_config(Settings, None, [f"storage={tmp_path}", *options])
    dataset = prepare(DataConfig(path=str(fixture_data), max_history=10), "p", report=lambda _: None)
    dataset.write(settings.layout.dataset)
    model = SASRec(SASRecConfig(width=16, blocks=1, max_positions=10), num_items=dataset.num_items)
    save_checkpoint(settings.layout.student("s"), model, dataset)
    (shards := -(-dataset.num_users // 16))
    assert shards > 2

    class Dies(OnRay):
        def rank(self, work, plan, missing) -> None:
            super().rank(work, plan, missing[:2])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        recommendations.make(settings, Dies(), "s")
    (work,) = Path(settings.layout.recommendations).glob(".s-*")
    finished = {path: path.stat().st_mtime_ns for path in work.iterdir()}
    assert sorted(path.name for path in finished) == ["part-00000.parquet", "part-00001.parquet"]
    recommendations.make(settings, OnRay(), "s")
    said = capfd.readouterr().out
    assert (
        f"2 of {shards} shards are already there" in said and f"recommendations: {dataset.num_users - 32:,} of" in said
    )
    place = storage.local_copy(recommendations.place(settings, "s"))
    assert {path.name: (place / path.name).stat().st_mtime_ns for path in finished} == {
        path.name: since for path, since in finished.items()
    }

    table = pq.read_table(place)
    users = StoredUsers(dataset).read(0, dataset.num_users)
    expected = recommend_table(Recommender.load(settings.layout.student("s")), users, 4)
    assert table.select(["user", "items", "checkpoint"]).equals(expected.select(["user", "items", "checkpoint"]))
    torch.testing.assert_close(
        torch.tensor(table["scores"].to_pylist()), torch.tensor(expected["scores"].to_pylist()), atol=1e-5, rtol=0
    )

    greedy = load_config(
        Settings, None, [f"storage={tmp_path}", "name=p", "tracking.uri=none", "recommendations.k=999"]
    )
    with pytest.raises(UserError, match="k must be between 1 and"):
        recommendations.make(greedy, OnRay(), "s")
