"""What a sweep does before its trials begin and when they are over: test rows are for the winner of all of them."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ray_jobs.sweeps import search as sweeps
from recsys import storage
from recsys.config import from_dict, to_dict
from recsys.data.prepared import PreparedDataset
from recsys.errors import UserError
from recsys.evaluation import results
from recsys.settings import Settings
from recsys.stages import evaluation, sweep_winner
from recsys.stages import student as student_stage
from recsys.stages.sweep import Sweep
from recsys.tuning.config import SweepConfig
from recsys.tuning.records import Record, Started

Make = Callable[..., Record]


@pytest.fixture
def sweep(
    tmp_path: Path, random_dataset: Callable[..., PreparedDataset], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Sweep]:
    """A sweep over a dropout; retraining and testing are made up."""
    student = {"model": {"kind": "sasrec", "width": 8, "blocks": 1, "heads": 1}}
    settings = from_dict(Settings, {"name": "p", "storage": str(tmp_path), "students": {"s": student}})
    random_dataset().write(settings.layout.dataset)
    metrics = {"masked": {"ndcg@10": 0.1, "hr@10": 0.2}}
    monkeypatch.setattr(sweep_winner, "draw", lambda *_: None)
    monkeypatch.setattr(student_stage, "make", lambda *_: {})
    monkeypatch.setattr(evaluation, "list_subjects", lambda *_: [])
    monkeypatch.setattr(results, "read_result", lambda *_: SimpleNamespace(metrics=metrics))

    def build(trials: int, **values: Any) -> Sweep:
        space = {"model.dropout": {"kind": "uniform", "low": 0, "high": 0.9}}
        standard = {"student": "s", "parameters": space, "trials": trials, "retrain": 1}
        made = Sweep(settings, "x", from_dict(SweepConfig, standard | values))
        # What is left to try is not tried: the time is up.
        monkeypatch.setattr(sweeps, "search_trials", lambda sweep, _: sweep.store.records())
        return made

    return build


def end(sweep: Sweep, make: Make, number: int, quality: float, **facts: Any) -> Record:
    parameters = {"model.dropout": number / 10}
    record = make(number, [quality], parameters, digest=sweep.digest(parameters), **facts)
    sweep.store.start(Started(digest=record.digest, number=number, parameters=parameters))
    sweep.store.end(record)
    return record


def go_on(sweep: Sweep) -> None:
    sweeps.run(sweep.settings, "x", sweep.config, resume=True)


def were_tested(sweep: Sweep) -> list[str]:
    file = storage.join(sweep.uri, "tested.json")
    return storage.read_json(file)["winners"] if storage.exists(file) else []


def test_a_sweep_that_was_cut_is_not_tested(
    sweep: Callable[..., Sweep], record: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    made = sweep(2)
    end(made, record, 0, 0.5)
    end(made, record, 1, 0.9, status="cut")
    go_on(made)
    printed = capsys.readouterr().out
    assert "winner: trial 1" in printed and "not tested: 1 of 2 trials are left" in printed and "test," not in printed
    assert were_tested(made) == []
    last = end(made, record, 1, 0.9)
    go_on(made)
    assert "test, 1 seed(s)" in capsys.readouterr().out and were_tested(made) == [last.digest]


def test_each_winner_that_is_tested_counts(
    sweep: Callable[..., Sweep], record: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[int] = []
    monkeypatch.setattr(sweep_winner, "draw", lambda _sweep, _records, _folder, test: shown.append(test["winners"]))
    made = sweep(1)
    first = end(made, record, 0, 0.5)
    go_on(made)
    go_on(made)
    more = sweep(3)
    assert more.key == made.key and to_dict(more.config)["trials"] == 3
    end(more, record, 1, 0.4)
    second = end(more, record, 2, 0.6)
    go_on(more)
    assert were_tested(more) == [first.digest, second.digest] and shown == [1, 1, 2]


def test_the_student_as_it_is_is_tried_where_the_search_may(sweep: Callable[..., Sweep]) -> None:
    dropout = {"kind": "uniform", "low": 0.1, "high": 0.5, "points": 2}
    assert sweep(1, parameters={"model.dropout": dropout}).propose_own() == [{"model.dropout": 0.2}]
    assert sweep(1, parameters={"model.dropout": dropout}, defaults=False).propose_own() == []
    assert sweep(1, parameters={"model.dropout": {**dropout, "low": 0.3}}).propose_own() == []
    off = sweep(1, parameters={"model.dropout": dropout}, search="grid")
    assert off.propose_own() == [] and off.trials == 2, "a grid is its points"
    on = sweep(1, parameters={"model.dropout": {"kind": "choice", "values": [0.1, 0.2]}}, search="grid")
    assert on.propose_own() == [{"model.dropout": 0.2}]


def test_a_value_that_needs_another_is_found_amid_many(
    sweep: Callable[..., Sweep], monkeypatch: pytest.MonkeyPatch
) -> None:
    def assemble(student: Any, *_: Any) -> None:
        if (student.model.width == 8) != (student.model.blocks == 7) or student.training.seed == 3:
            raise UserError("these do not go together")

    monkeypatch.setattr(student_stage, "assemble", assemble)
    space = {
        "model.blocks": {"kind": "choice", "values": [7, 1]},
        "model.width": {"kind": "choice", "values": [16, 32, 8]},
        "training.epochs": {"kind": "int", "low": 1, "high": 30},
        "training.batch_size": {"kind": "int", "low": 1, "high": 30},
    }
    sweep(1, parameters=space).load()
    with pytest.raises(UserError, match=r"no student .* training.seed=3 can be built: these do not go together"):
        sweep(1, parameters={**space, "training.seed": {"kind": "int", "low": 2, "high": 4}}).load()


def test_a_space_that_is_used_up_is_a_sweep_that_is_through(sweep: Callable[..., Sweep], record: Make) -> None:
    made = sweep(3)
    end(made, record, 0, 0.5)
    go_on(made)
    assert not made.is_through() and were_tested(made) == []
    plan = storage.join(made.uri, "sweep.json")
    storage.write_json(plan, {**storage.read_json(plan), "exhausted": 3})
    assert made.is_through() and sweep(2).is_through() and not sweep(4).is_through(), (
        "more are asked for: they are looked for"
    )
    go_on(made)
    assert len(were_tested(made)) == 1
    assert not sweep(3, parameters={"model.dropout": {"kind": "uniform", "low": 0, "high": 0.8}}).is_through()


def test_the_winner_is_trained_on_the_chosen_budget(sweep: Callable[..., Sweep], record: Make) -> None:
    made = sweep(1, epochs=2, retrain=2, retrain_epochs=7)
    assert made.key == sweep(1, epochs=2).key, "no trial is another by it"
    found = sweep_winner.add_tuned(made, end(made, record, 3, 0.5)).students
    assert [found[f"s-tuned{n}"].training.seed for n in ("", "-seed1")] == [0, 1]
    assert found["s-tuned"].training.epochs == 7 and found["s-tuned"].model.dropout == 0.3
    default = sweep_winner.add_tuned(sweep(1, epochs=2), end(made, record, 3, 0.5)).students
    assert default["s-tuned"].training.epochs == made.student.training.epochs
