"""A student learns from a teacher that ranked a sample of the training rows: the others are taken as they are."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from recsys.checkpoint import save_checkpoint
from recsys.config import from_dict
from recsys.data.prepared import PreparedDataset
from recsys.inference.replica import WholeReplica
from recsys.losses.config import DistillationConfig, RecommendationLossConfig
from recsys.signals.config import SignalsConfig
from recsys.signals.signals import SignalsMeta, TeacherSignals
from recsys.signals.writer import ShardPlan, SignalsWriter
from recsys.students.build import build_student
from recsys.students.config import SASRecConfig
from recsys.teachers.bigrec.bigrec import BIGRec
from recsys.training.config import TrainingConfig
from recsys.training.loop import train_local


def test_a_student_of_partial_signals(dataset: PreparedDataset, teacher: Callable[..., BIGRec], tmp_path: Path) -> None:
    model = teacher(dataset, beams=1)
    save_checkpoint(str(tmp_path / "teacher"), model, dataset)
    replica = WholeReplica(dataset, SignalsConfig(k=5, dtype="fp32"), "cpu")
    plan = ShardPlan.of(dataset, ("train", "test"), 16, train_rows=20)
    writer = SignalsWriter(str(tmp_path / "signals"), key="k", k=5)
    for number in range(len(plan)):
        ranked = replica.rank(str(tmp_path / "teacher"), plan.shard(number))
        writer.write_shard(
            number, ranked.rows, ranked.items, ranked.scores, ranked.target_distance, seconds=1, tokens=ranked.tokens
        )
    meta = SignalsMeta(
        teacher="bigrec", checkpoint_hash="c", fingerprint=dataset.fingerprint, k=5, score_meaning="distance",
        higher_is_better=False, distance_meaning=BIGRec.distance_meaning,
    )  # fmt: skip
    writer.finalise(plan, meta, model.item_embeddings(), None)
    signals = TeacherSignals.load(str(tmp_path / "signals"), dataset)
    assert signals.meta.cost["tokens"] > 20 * len(plan.rows)
    assert 20 == int(np.isin(dataset.rows("train"), signals.rows).sum()) < len(dataset.rows("train"))

    states = []
    for form in (None, "softmax", "sigmoid"):
        distillation = (
            from_dict(DistillationConfig, {"ranking": {"form": form, "k": 5}, "embedding": {}}) if form else None
        )
        objective = build_student(
            SASRecConfig(kind="sasrec", width=8),
            dataset,
            loss=RecommendationLossConfig(),
            distillation=distillation,
            signals=signals if form else None,
            seed=0,
        )
        training = TrainingConfig(epochs=1, batch_size=4)
        result = train_local(objective, dataset, training, tmp_path / f"run-{form}")
        assert all(bool(torch.isfinite(tensor).all()) for tensor in result.state.values())
        states.append(result.state)
    assert len({float(sum(tensor.abs().sum() for tensor in state.values())) for state in states}) == 3
