"""Generations of a population, on made-up trials of Ray Tune."""

from dataclasses import dataclass, field
from typing import Any

import pytest
from ray.tune.experiment import Trial
from ray.tune.utils import flatten_dict

from ray_jobs.sweeps.population import Population
from recsys.config import from_dict
from recsys.tuning.config import SweepConfig

LOW, HIGH = 0.1, 0.5


@dataclass(eq=False)
class MadeUp:
    """What the scheduler reads of a trial."""

    trial_id: str
    config: dict[str, Any]
    status: str = Trial.RUNNING
    checkpoint: str = ""
    temporary_state: Any = field(default_factory=lambda: type("State", (), {"saving_to": None}))
    run_metadata: Any = field(
        default_factory=lambda: type(
            "Metadata",
            (),
            {"checkpoint_manager": type("Manager", (), {"checkpoint_config": type("C", (), {"num_to_keep": None})})()},
        )()
    )
    experiment_tag: str = ""
    evaluated_params: dict[str, Any] = field(default_factory=dict)

    def is_finished(self) -> bool:
        return self.status in (Trial.TERMINATED, Trial.ERROR)

    def set_experiment_tag(self, tag: str) -> None:
        self.experiment_tag = tag

    def set_config(self, config: dict[str, Any]) -> None:
        self.config = config


@dataclass
class Tuned:
    """What the scheduler does with Ray Tune's controller, and what it tells the ledger."""

    trials: list[MadeUp]
    search_alg: None = None
    told: list[tuple[str, str, int]] = field(default_factory=list)

    def get_trials(self) -> list[MadeUp]:
        return self.trials

    def get_live_trials(self) -> list[MadeUp]:
        return [trial for trial in self.trials if not trial.is_finished()]

    def pause_trial(self, trial: MadeUp, should_checkpoint: bool) -> None:
        assert not should_checkpoint
        trial.status = Trial.PAUSED

    def _schedule_trial_save(self, trial: MadeUp, result: dict[str, Any]) -> str:
        return trial.checkpoint

    def note_replacement(self, trial: str, by: str, epoch: int, parameters: dict[str, Any]) -> None:
        assert LOW <= parameters["dropout"] <= HIGH
        self.told.append((trial, by, epoch))


@pytest.fixture
def population() -> tuple[Population, Tuned]:
    tuned = Tuned([MadeUp(f"{n}", {"parameters": {"dropout": LOW + 0.1 * n, "blocks": n}}) for n in range(4)])
    config = from_dict(
        SweepConfig,
        {
            "student": "s",
            "search": "population",
            "stopping": {"kind": "none"},
            "parameters": {
                "dropout": {"kind": "uniform", "low": LOW, "high": HIGH},
                "blocks": {"kind": "int", "low": 0, "high": 3},
            },
        },
    )
    scheduler = Population(config, "mrr", tuned)  # type: ignore[arg-type]
    for trial in tuned.trials:
        scheduler.on_trial_add(tuned, trial)  # type: ignore[arg-type]
    return scheduler, tuned


def reach(scheduler: Population, tuned: Tuned, number: int, epoch: int, value: float) -> str:
    trial = tuned.trials[number]
    trial.status, trial.checkpoint = Trial.RUNNING, f"{number} at {epoch}"
    result = {"record": {"epoch": epoch, "valid_mrr": value}, "finished": False, "quality": 1.0}
    decision = scheduler.on_trial_result(tuned, trial, flatten_dict(result))  # type: ignore[arg-type]
    if decision == "PAUSE":
        trial.status = Trial.PAUSED
    return decision


def test_the_worst_goes_on_from_the_best_when_all_are_through(population: tuple[Population, Tuned]) -> None:
    scheduler, tuned = population
    assert reach(scheduler, tuned, 0, 1, 0.0) == "CONTINUE"
    for number, value in ((0, 0.4), (1, 0.1), (2, 0.3)):
        assert reach(scheduler, tuned, number, 2, value) == "PAUSE" and not tuned.told
    reach(scheduler, tuned, 3, 2, 0.2)
    assert tuned.told == [("1", "0", 2)]
    assert tuned.trials[1].config["parameters"]["blocks"] == 0, "goes with the weights"
    assert scheduler.choose_trial_to_run(tuned) is not None  # type: ignore[arg-type]
    for number in range(4):
        reach(scheduler, tuned, number, 4, [0.4, 0.1, 0.3, 0.5][number])
    assert tuned.told[1:] == [("1", "3", 4)]


def test_one_that_breaks_holds_up_nobody(population: tuple[Population, Tuned]) -> None:
    scheduler, tuned = population
    for number, value in ((0, 0.4), (1, 0.1), (2, 0.3)):
        reach(scheduler, tuned, number, 2, value)
    assert not tuned.told and scheduler.choose_trial_to_run(tuned) is None  # type: ignore[arg-type]
    scheduler.on_trial_complete(tuned, tuned.trials[3], {})  # type: ignore[arg-type]
    tuned.trials[3].status = Trial.TERMINATED
    assert tuned.told == [("1", "0", 2)]
    assert scheduler.choose_trial_to_run(tuned) in tuned.trials[:3]  # type: ignore[arg-type]
