"""What a trial reports, without Ray: its calls are caught."""

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray import tune
from safetensors.torch import load_file, save_file

from ray_jobs.sweeps import trial_work
from recsys.config import from_dict
from recsys.data.prepared import PreparedDataset
from recsys.settings import Layout, StudentSettings
from recsys.students.build import build_student
from recsys.training.loop import validate

EPOCHS = 4
STUDENT = {
    "model": {"kind": "sasrec", "width": 8, "blocks": 1, "heads": 1, "max_positions": 8, "dropout": 0.1},
    "training": {"epochs": EPOCHS, "batch_size": 16, "patience": 0, "learning_rate": 0.01},
}


@pytest.fixture
def trial(monkeypatch: pytest.MonkeyPatch, random_dataset: Callable[..., PreparedDataset], tmp_path: Path) -> Any:
    """Runs a trial from a checkpoint; gives what it reported and the folder of its kept states."""
    dataset, runs = random_dataset(), list[Path]()

    def run(
        resume: Path | None = None, interval: int | None = None, keep: str = "", **parameters: Any
    ) -> tuple[list[Any], Path]:
        runs.append(tmp_path / str(len(runs)))
        told: list[Any] = []

        def report(metrics: dict[str, Any], checkpoint: Any = None) -> None:
            told.append(metrics)
            if checkpoint is not None:
                shutil.copytree(checkpoint.path, runs[-1] / str(metrics["record"]["epoch"]))

        monkeypatch.setattr(trial_work.tune, "report", report)
        monkeypatch.setattr(
            trial_work.tune, "get_checkpoint", lambda: tune.Checkpoint.from_directory(resume) if resume else None
        )
        trial_work.run_alone(
            {"parameters": parameters},
            student=from_dict(StudentSettings, STUDENT),
            inputs=[None],
            layout=Layout(str(tmp_path), "p"),
            threads=1,
            keep=keep,
            interval=interval,
        )
        return told, runs[-1]

    monkeypatch.setattr(trial_work, "receive", lambda _: (dataset, None, None))
    monkeypatch.setattr(trial_work.tune, "get_context", lambda: SimpleNamespace(get_trial_id=lambda: "t"))
    monkeypatch.setattr(trial_work.ray, "get_gpu_ids", list)
    node = SimpleNamespace(get_node_id=lambda: "0123456789")
    monkeypatch.setattr(trial_work.ray, "get_runtime_context", lambda: node)
    return run


def test_a_trial_reports_each_epoch(trial: Any) -> None:
    told, _ = trial()
    assert [metrics["record"]["epoch"] for metrics in told] == [1, 2, 3, 4]
    assert [metrics["finished"] for metrics in told] == [False, False, False, True]
    values = [metrics["record"]["valid_ndcg@10"] for metrics in told]
    assert [metrics["quality"] for metrics in told] == [max(values[:n]) for n in range(1, EPOCHS + 1)]
    assert all(metrics["size"] > 0 and metrics["latency_ms"] > 0 for metrics in told)


def test_a_member_of_a_population_goes_on_from_a_kept_state(trial: Any) -> None:
    whole, kept = trial(interval=2)
    assert [folder.name for folder in kept.iterdir()] == ["2"], "the last generation needs none"
    resumed, _ = trial(resume=kept / "2", interval=2)
    assert [m["record"]["epoch"] for m in resumed] == [3, 4]
    assert [m["record"]["loss"] for m in resumed] == [m["record"]["loss"] for m in whole[2:]]
    other, _ = trial(resume=kept / "2", interval=2, **{"training.learning_rate": 1.0e-4})
    assert [m["record"]["learning_rate"] for m in other] == [1.0e-4] * 2
    assert other[1]["record"]["loss"] != whole[3]["record"]["loss"]


def test_the_best_epochs_weights_are_kept(
    trial: Any, random_dataset: Callable[..., PreparedDataset], tmp_path: Path
) -> None:
    told, states = trial(keep=str(tmp_path / "kept"), interval=2)
    quality = [metrics["record"]["valid_ndcg@10"] for metrics in told]
    file = tmp_path / "kept" / "t.safetensors"
    config = from_dict(StudentSettings, STUDENT)
    objective = build_student(config.model, random_dataset(), loss=config.loss, seed=1)
    objective.model.load_state_dict(load_file(file))
    assert validate(objective, random_dataset(), config.training)["ndcg@10"] == pytest.approx(max(quality))
    # A member that goes on from another's state keeps its own best until it is better.
    save_file(load_file(file), file, metadata={"quality": "2.0"})
    before = file.read_bytes()
    trial(keep=str(tmp_path / "kept"), resume=states / "2", interval=2)
    assert file.read_bytes() == before
    trial(keep=str(tmp_path / "kept"))
    assert file.read_bytes() != before, "one that begins again begins with nothing"


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({"training.learning_rate": 1.0e30}, "training diverged"),
        ({"loss.kind": "bce", "loss.negatives": 10**12}, "allocate memory"),
        ({"model.width": 9, "model.heads": 2}, "width 9 is not divisible by heads 2"),
    ],
)
def test_what_breaks_a_trial_is_its_reason(trial: Any, parameters: dict[str, Any], reason: str) -> None:
    told, _ = trial(**parameters)
    assert reason in told[-1]["failed"] and "\n" not in told[-1]["failed"]
