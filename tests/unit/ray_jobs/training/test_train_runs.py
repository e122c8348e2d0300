"""Where a training run keeps its resume state, and what its driver says."""

import queue
from pathlib import Path
from typing import Any

import pytest

from ray_jobs.training import train_runs
from recsys.settings import WorkersConfig
from recsys.training.config import DeepSpeedConfig, TrainingConfig
from recsys.training.loop import Steps

KEY = "k" * 64


def test_deepspeed_begins_afresh_with_another_number_of_workers() -> None:
    plain, split = TrainingConfig(), TrainingConfig(deepspeed=DeepSpeedConfig())

    def folders(training: TrainingConfig) -> list[str]:
        return [train_runs.run_folder("teacher", KEY, training, WorkersConfig(workers=n)) for n in (1, 2)]

    assert len(set(folders(split))) == 2
    assert len(set(folders(plain))) == 1, "what one worker wrote, two can read"


def test_a_finished_run_leaves_no_state_of_any_number_of_workers(tmp_path: Path) -> None:
    name = f"teacher-{KEY[:16]}"
    others = {"teacher-fold-1-" + KEY[:16], "teacher-" + "j" * 16, f"{name}-more"}
    for folder in {name, f"{name}-2-workers", f"{name}-16-workers", *others}:
        (tmp_path / folder / "checkpoint").mkdir(parents=True)
    train_runs.discard("teacher", train_runs=str(tmp_path), key=KEY)
    assert {folder.name for folder in tmp_path.iterdir()} == others
    train_runs.discard("teacher", train_runs=str(tmp_path / "none"), key=KEY)


def test_the_driver_prints_steps_and_epochs_and_records_epochs(capsys: pytest.CaptureFixture[str]) -> None:
    recorded: list[tuple[dict[str, Any], int]] = []

    class Run:
        def log_metrics(self, metrics: dict[str, Any], step: int) -> None:
            recorded.append((metrics, step))

    told: Any = queue.Queue()
    train_runs._tell(told, Steps(2, 10, 40, 1234.5, 61.4))
    metrics = {"loss": 1.5, "valid_ndcg@10": 0.25, "train_seconds": 80.0}
    told.put(("epoch", {**metrics, "epoch": 2, "finished": False}))
    told.put(None)
    run: Any = Run()
    train_runs._follow(told, "teacher", TrainingConfig(epochs=3), run, lambda: True)
    assert capsys.readouterr().out.splitlines() == [
        "teacher: epoch 2/3  step 10 of 40, 1,234 tokens/s, 61 s left",
        "teacher: epoch 2/3  loss 1.5000  valid ndcg@10 0.2500  80.0 s",
    ]
    assert recorded == [(metrics, 2)]


def test_the_driver_says_that_it_waits_for_room_after_a_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(train_runs, "_SILENCE", 0.01)
    told: Any = queue.Queue()
    told.put(("failure", "worker 1: its node died"))
    asked: list[bool] = []

    def has_room() -> bool:
        asked.append(len(asked) > 1)
        if len(asked) == 4:
            told.put(None)
        return asked[-1]

    run: Any = None
    train_runs._follow(told, "teacher", TrainingConfig(epochs=3), run, has_room)
    assert capsys.readouterr().out.splitlines() == [
        "teacher: worker 1: its node died; restarting from the last checkpoint",
        *["teacher: waiting for a node with room for its workers"] * 2,
    ]
