from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from recsys.data.splits import find_seen_by_training
from recsys.signals.signals import TeacherSignals
from recsys.stages.executor import InProcess


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch, project_root: Path) -> ModuleType:
    monkeypatch.syspath_prepend(str(project_root / "benchmarks"))
    import workers

    return workers


def test_sequences_are_split_by_leave_one_out(workers: ModuleType) -> None:
    dataset = workers.make_dataset(3)
    rows = np.sort(np.concatenate(list(dataset.split_rows.values())))
    first = dataset.offsets[:-1]
    assert np.array_equal(rows, np.setdiff1d(np.arange(3 * workers.LENGTH), first)), "every item with one before it"
    assert dataset.rows("test").tolist() == (dataset.offsets[1:] - 1).tolist()
    seen = find_seen_by_training(dataset.offsets, dataset.rows("train"))
    assert np.array_equal(np.bincount(dataset.items[seen], minlength=workers.ITEMS + 1), dataset.catalogue.train_counts)


def test_stages_are_measured_with_and_without_their_teacher(workers: ModuleType, tmp_path: Path) -> None:
    sizes = workers.QUICK
    settings = workers.make_project(str(tmp_path), 1, sizes)
    ranked = workers.measure_pass("a", InProcess(), settings, 1, sizes, False)
    signals = TeacherSignals.load(settings.layout.signals, workers.make_dataset(sizes.users))
    assert len(signals.rows) == sizes.users * (workers.LENGTH - 1)
    slept = workers.measure_pass("a", InProcess(), settings, 1, sizes, True)
    assert slept["rows_per_second"] <= 1 / workers.ROW_SECONDS and slept["seconds"] >= sizes.simulated_rows / 1000
    assert ranked["start_seconds"] > 0 and ranked["seconds"] > ranked["start_seconds"]
    trained = workers.measure_distillation("a", InProcess(), settings, 1, sizes, True)
    steps = sizes.users // sizes.windows
    rows_of_step = sizes.users * (workers.LENGTH - 3) / steps
    assert trained["rows_per_second"] <= rows_of_step / workers.STEP_SECONDS
    assert trained["seconds"] >= sizes.epochs * steps * workers.STEP_SECONDS


def test_what_ray_costs_and_how_workers_scale(workers: ModuleType) -> None:
    rates = {"in_process": 110, "1": 100, "2": 190, "4": 300}
    stage = {name: {"rows_per_second": rate} for name, rate in rates.items()}
    assert workers.compute_overhead(stage) == 0.1
    assert workers.compute_scaling(stage) == {"2": 0.95, "4": 0.75}
    assert workers.compute_overhead({"in_process": stage["in_process"]}) is None
