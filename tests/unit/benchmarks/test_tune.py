"""The made-up data of the sweep benchmark is what it says, and is enough to train on."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from recsys.losses.config import DistillationConfig, RankingDistillationConfig, RecommendationLossConfig
from recsys.students.build import build_student
from recsys.students.config import SASRecConfig
from recsys.training.config import TrainingConfig
from recsys.training.loop import train
from recsys.tuning.records import Record

BENCHMARKS = Path(__file__).resolve().parents[3] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    spec = importlib.util.spec_from_file_location("tune_benchmark", BENCHMARKS / "tune.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.delitem(sys.modules, "harness")
    return module


def test_the_shared_data_has_the_bytes_that_are_told(benchmark: ModuleType) -> None:
    dataset = benchmark.make_dataset(20_000)
    signals = benchmark.make_signals(dataset)
    arrays = [dataset.items, dataset.timestamps, dataset.offsets, *dataset.split_rows.values()]
    assert signals.rows is dataset.rows("test"), "it travels once"
    arrays += [signals.items, signals.scores, signals.target_distance, signals.lookup(len(dataset.items))]
    arrays += [signals.item_embeddings.numpy(), dataset.catalogue.train_counts]
    assert benchmark.count_shared_bytes(dataset) == pytest.approx(sum(array.nbytes for array in arrays), rel=0.01)


def test_a_student_learns_from_it(benchmark: ModuleType) -> None:
    dataset = benchmark.make_dataset(3_000)
    signals = benchmark.make_signals(dataset)
    assert np.isin(dataset.rows("train"), signals.rows).all()
    ranking = RankingDistillationConfig(k=benchmark.K)
    objective = build_student(
        SASRecConfig(width=8, blocks=1, heads=1),
        dataset,
        loss=RecommendationLossConfig(),
        distillation=DistillationConfig(ranking=ranking, embedding=None),
        signals=signals,
    )
    progress = train(objective, dataset, TrainingConfig(epochs=1), report=lambda epoch: None).progress
    assert progress.curve[0]["ranking_distillation_loss"] > 0


def test_starts_tell_the_first_trial_of_a_process_from_the_others(benchmark: ModuleType) -> None:
    def record(number: int, worker: str, beside: float, elapsed: float) -> Record:
        facts = {"digest": str(number), "parameters": {}, "status": "finished", "metric": "mrr", "quality": 0.1}
        times = {"train_seconds": 2.0, "seconds": 2.0 + beside, "elapsed": elapsed}
        return Record(number=number, worker=worker, **facts, **times)

    records = [record(0, "a", 5, 7), record(1, "b", 4, 6), record(2, "b", 0.1, 9), record(3, "a", 0.2, 10)]
    first, later = benchmark.time_starts(records)
    assert (first, later) == (pytest.approx([5, 4]), pytest.approx([0.1, 0.2]))
