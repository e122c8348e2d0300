"""What the ledger is told of what happens in Ray Tune, and why a trial was lost, from what Ray says of it."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.utils import flatten_dict

from ray_jobs.sweeps.follower import Follower, why_lost
from tests.unit.tuning.conftest import Sweep

_DIED = "The actor died unexpectedly before finishing this task.\n\tclass_name: ImplicitFunc\n"


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (
            "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR",
            "was killed or crashed",
        ),
        ("Worker exit detail: Task was killed due to the node running low on memory.", "had no memory left"),
        ("The actor died because its node has died. Node Id: 0a", "its node was lost"),
        ("something else", "something else"),
    ],
)
def test_the_last_failure_is_told_in_a_line(said: str, reason: str, tmp_path: Path) -> None:
    file = tmp_path / "error.txt"
    file.write_text(f"Failure # 1 (occurred at x)\nits node has died\nFailure # 2 (occurred at y)\n{_DIED}{said}\n")
    told = why_lost(SimpleNamespace(error_file=str(file)))
    assert reason in told and "\n" not in told


def test_without_a_word_from_ray(tmp_path: Path) -> None:
    for missing in (None, str(tmp_path / "none.txt")):
        assert why_lost(SimpleNamespace(error_file=missing)) == "its process was lost"


def test_a_trial_that_is_lost_before_it_starts(tmp_path: Path) -> None:
    """Ray Tune tells of the start of a trial when its process is up."""
    sweep = Sweep(tmp_path)
    follower = Follower(sweep.ledger)
    parameters = [sweep.search.ask() for _ in range(2)]
    trials = [
        SimpleNamespace(trial_id=f"{n}", config={"parameters": p}, latest_checkpoint_result=None, error_file=None)
        for n, p in enumerate(parameters)
    ]
    for made in parameters:
        sweep.ledger.propose(made or {})
    follower.on_trial_recover(trial=trials[0])
    follower.on_trial_start(trial=trials[0])
    follower.on_trial_error(trial=trials[1])
    sweep.epoch("0", 3, 0.5)
    follower.on_trial_complete(trial=trials[0])
    found = {r.number: (r.status, r.reason, r.restarts) for r in sweep.store.records()}
    assert found == {0: ("finished", "", 1), 1: ("failed", "its process was lost", 0)}
    assert len(sweep.opened) == 2


@pytest.mark.parametrize("form", [lambda told: told, flatten_dict])
def test_a_member_that_is_lost_goes_on_from_its_kept_state(tmp_path: Path, form: Any) -> None:
    sweep = Sweep(tmp_path)
    parameters = sweep.begin("a")
    for number in (1, 2, 3):
        sweep.epoch("a", number, 0.1 * number)
    kept = SimpleNamespace(metrics=form({"record": {"epoch": 2}}))
    trial = SimpleNamespace(
        trial_id="a", config={"parameters": parameters}, latest_checkpoint_result=kept, error_file=None
    )
    Follower(sweep.ledger).on_trial_recover(trial=trial)
    assert (sweep.ledger.end("a").epochs, sweep.opened[0].number) == (2, 0)
