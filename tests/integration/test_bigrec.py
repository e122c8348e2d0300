"""BIGRec through the jobs that know nothing of it: trained, run over a sample of rows, read by a student."""

from pathlib import Path

import numpy as np
import pytest

from ray_jobs.on_ray import OnRay
from recsys.config import load_config
from recsys.data.config import DataConfig
from recsys.data.prepare import prepare
from recsys.serving.recommender import Recommender
from recsys.settings import Settings
from recsys.signals.signals import TeacherSignals
from recsys.stages import signals as signals_stage
from recsys.stages import teacher as teacher_stage

pytestmark = pytest.mark.ray


@pytest.mark.full
def test_train_infer_and_load(fixture_data: Path, tmp_path: Path, ray_session: None) -> None:
    options = [
        f"storage={tmp_path}", "name=p", "tracking.uri=none", "teacher.model.kind=bigrec", "teacher.model.width=32",
        "teacher.model.layers=1", "teacher.model.heads=2", "teacher.model.vocabulary=400", "teacher.model.beams=2",
        "teacher.model.train_rows=64", "teacher.model.valid_rows=8", "teacher.training.epochs=1",
        "teacher.training.batch_size=16", "teacher.scaling.workers=2", "signals.k=5", "signals.train_rows=40",
        "signals.rows_per_shard=64", "signals.dtype=fp32",
    ]  # fmt: skip
    settings = load_config(Settings, None, options)
    dataset = prepare(DataConfig(path=str(fixture_data), max_history=10), "p", report=lambda _: None)
    dataset.write(settings.layout.dataset)

    teacher_stage.make(settings, executor=OnRay())
    recommender = Recommender.load(settings.layout.teacher)
    known = dataset.catalogue.item_ids[1]
    assert len(recommender.recommend([[known]], k=5)[0]) == 5

    signals_stage.make(settings, executor=OnRay())
    signals = TeacherSignals.load(settings.layout.signals, dataset)
    counts = {"train": 40, "valid": len(dataset.rows("valid")), "test": len(dataset.rows("test"))}
    assert signals.meta.rows == counts
    assert len(signals.rows) == sum(counts.values())
    assert np.isin(dataset.rows("test"), signals.rows).all()
    assert (signals.meta.score_meaning, signals.meta.higher_is_better) == ("distance", False)
    assert (np.diff(signals.scores, axis=1) >= 0).all()
    assert np.isfinite(signals.target_distance).all()
    assert signals.item_embeddings.shape == (dataset.num_items + 1, 32)
    row = int(dataset.rows("test")[0])
    history = [dataset.catalogue.item_ids[item] for item in dataset.seen(row)]
    ranked = signals.items[np.searchsorted(signals.rows, row)]
    assert recommender.recommend([history], k=5)[0] == [dataset.catalogue.item_ids[item] for item in ranked]
