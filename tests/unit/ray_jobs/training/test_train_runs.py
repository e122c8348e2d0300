"""Where a training run keeps its resume state."""

from pathlib import Path

from ray_jobs.training import train_runs
from recsys.settings import WorkersConfig
from recsys.training.config import DeepSpeedConfig, TrainingConfig

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
