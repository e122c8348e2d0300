"""Work in this process: in order, told as it is done, and trainings that continue."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from recsys.data.prepared import PreparedDataset
from recsys.losses.config import RecommendationLossConfig
from recsys.settings import WorkersConfig
from recsys.stages import executor
from recsys.stages.executor import InProcess, pace
from recsys.students.build import build_student
from recsys.students.config import SASRecConfig
from recsys.tracking import Run
from recsys.training.config import TrainingConfig


def test_pieces_are_done_in_order_and_told_one_by_one() -> None:
    happened: list[Any] = []

    def work(number: int) -> Callable[[], int]:
        return lambda: happened.append(f"work {number}") or number * number

    results = InProcess().call_all(
        [work(n) for n in range(3)], cpus=1, gpus=0, section="x", done=lambda n, r: happened.append((n, r))
    )
    assert results == [0, 1, 4]
    assert happened == ["work 0", (0, 0), "work 1", (1, 1), "work 2", (2, 4)]


def test_what_is_said_is_paced_and_the_end_is_said_always(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[int] = []
    now = [0.0]
    monkeypatch.setattr(executor.time, "monotonic", lambda: now[0])
    progress = pace(lambda done, _: said.append(done), seconds=4)
    for done in range(1, 12):
        now[0] += 1.5
        progress(done, 11)
    assert said == [3, 6, 9, 11]


class Interruption(Exception):
    """Of a test."""


def test_a_training_that_was_ended_continues_and_one_by_force_begins_anew(
    random_dataset: Callable[..., PreparedDataset], tmp_path: Path
) -> None:
    dataset = random_dataset()
    training = TrainingConfig(epochs=3, batch_size=4)

    def build() -> Any:
        config = SASRecConfig(kind="sasrec", width=8)
        objective = build_student(
            config, dataset, loss=RecommendationLossConfig(), distillation=None, signals=None, seed=0
        )
        return objective, dataset, None

    def fit(folder: str, epochs: list[int], stop_after: int | None = None, **how: Any) -> Any:
        def watch(_: str, epoch: Any) -> None:
            epochs.append(epoch.number)
            if epoch.number == stop_after:
                raise Interruption

        return InProcess(watch).fit(
            "s", build, training=training, scaling=WorkersConfig(), train_runs=str(tmp_path / folder), key="k" * 64,
            run=Run(), **how,
        )  # fmt: skip

    whole: list[int] = []
    expected = fit("whole", whole)().state
    parts: list[int] = []
    with pytest.raises(Interruption):
        fit("parts", parts, stop_after=2)
    continued = fit("parts", parts)().state
    assert whole == [1, 2, 3] and parts == [1, 2, 3]
    assert all(torch.equal(continued[name], expected[name]) for name in expected)
    again: list[int] = []
    fit("parts", again, force=True)
    assert again == [1, 2, 3]
