"""The ledger: what is written when, from what is reported of trials."""

from pathlib import Path
from typing import Any

import pytest

from recsys.tracking import Run
from tests.unit.tuning.conftest import Sweep


def test_finished_stopped_and_failed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = Sweep(tmp_path)
    for trial in "abcd":
        sweep.begin(trial)
    for number, value in enumerate([0.1, 0.3, 0.2], start=1):
        sweep.epoch("a", number, value)
    sweep.epoch("b", 1, 0.25)
    sweep.epoch("c", 1, 0.9)
    sweep.ledger.note_result("c", {"failed": "training diverged: the loss of epoch 2 is NaN"})
    records = [sweep.ledger.end(trial) for trial in "abc"]
    records.append(sweep.ledger.end("d", failure="its process was lost"))
    assert [r.status for r in records] == ["finished", "stopped", "failed", "failed"]
    assert [(r.quality, r.best_epoch, r.epochs, r.train_seconds) for r in records[:2]] == [
        (0.3, 2, 3, 9),
        (0.25, 1, 1, 3),
    ]
    assert records[2].quality is None, "a trial that broke is not chosen for what it was before"
    assert [r.reason for r in records[2:]] == ["training diverged: the loss of epoch 2 is NaN", "its process was lost"]
    assert sweep.store.records() == records and sweep.store.list_interrupted() == []
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split()[:3] == ["trial", "status", "epochs"] and len(printed) == 5
    assert printed[1].split()[:4] == ["0", "finished", "3/3", "0.3000"]
    assert "NaN" in printed[3]
    assert "4 of 4 trials ended, best ndcg@10 0.3000 (trial 0)" in sweep.ledger.summarise()


def test_weights_are_kept_beside_the_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logged: dict[str, Any] = {}
    monkeypatch.setattr(Run, "log_file", lambda run, uri, folder: logged.update({run.id: (Path(uri).name, folder)}))
    sweep = Sweep(tmp_path)
    for trial in "abc":
        sweep.begin(trial)
        sweep.epoch(trial, 1, 0.1)
    for trial in "ab":
        sweep.leave(trial)
    sweep.ledger.note_result("b", {"failed": "NaN"})
    kept, failed, none = (sweep.ledger.end(trial) for trial in "abc")
    assert (tmp_path / f"{kept.digest}.safetensors").read_text() == "weights of a"
    assert {file.stem for file in tmp_path.glob("*.safetensors")} == {kept.digest}, (failed.reason, none.status)
    assert logged == {"run-0": (f"{kept.digest}.safetensors", "checkpoint")}
    assert len(sweep.store.records()) == 3 and sweep.store.list_interrupted() == []


def test_a_trial_that_lost_its_process_starts_from_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = Sweep(tmp_path)
    parameters = sweep.begin("a")
    sweep.epoch("a", 1, 0.8)
    sweep.epoch("a", 2, 0.9)
    sweep.ledger.note_loss("a", "its node was lost")
    sweep.ledger.start("a", parameters)
    for number in (1, 2, 3):
        sweep.epoch("a", number, 0.1 * number)
    record = sweep.ledger.end("a")
    assert (record.epochs, record.quality, record.status) == (3, pytest.approx(0.3), "finished")
    assert len(sweep.opened) == 1, "one run"
    assert record.restarts == 1 and "trial 0: its node was lost; it starts again" in capsys.readouterr().out


def test_after_an_interruption(tmp_path: Path) -> None:
    killed = Sweep(tmp_path)
    done, half = killed.begin("a"), killed.begin("b")
    for number in (1, 2, 3):
        killed.epoch("a", number, 0.5)
    killed.epoch("b", 1, 0.7)
    killed.ledger.end("a")

    sweep = Sweep(tmp_path)
    assert sweep.ledger.elapsed >= killed.store.records()[0].elapsed
    assert sweep.begin("x") == half
    assert (sweep.opened[0].number, sweep.opened[0].run) == (1, "run-1"), "the same trial and the same run"
    assert sweep.begin("y") not in (done, half)
    assert sweep.opened[1].number == 2
    assert [started.number for started in sweep.store.list_interrupted()] == [1, 2]


def test_what_the_time_cuts_is_known_and_starts_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[tuple[str, Any]] = []
    monkeypatch.setattr(Run, "log_curve", lambda run, curve: logged.append((run.id, curve)))
    late = Sweep(tmp_path, seconds=1e-9)
    done, half = late.begin("a"), late.begin("b")
    for number in (1, 2, 3):
        late.epoch("a", number, 0.2)
    late.epoch("b", 1, 0.9)
    assert late.ledger.late and late.ledger.end("a").status == "finished"
    cut = late.ledger.end("b")
    assert (cut.status, cut.reason, cut.quality) == ("cut", "the sweep's time was up", 0.9)
    assert "1 of 4 trials ended, best ndcg@10 0.9000 (trial 1)" in late.ledger.summarise()

    assert [name for name, _ in logged] == ["run-0"], "the curve of what starts again would be twice in its run"
    sweep = Sweep(tmp_path)
    assert not sweep.ledger.late and sweep.ledger.elapsed >= cut.elapsed
    assert sweep.begin("x") == half and sweep.opened[0].run == "run-1"
    for number in (1, 2, 3):
        sweep.epoch("x", number, 0.3)
    sweep.ledger.end("x")
    assert [(r.number, r.status, r.parameters) for r in sweep.store.records()] == [
        (0, "finished", done),
        (1, "finished", half),
    ]


def test_a_member_of_a_population_goes_on_from_another(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = Sweep(tmp_path)
    own = sweep.begin("a")
    sweep.begin("b")
    sweep.epoch("a", 1, 0.1)
    sweep.epoch("b", 1, 0.4)
    sweep.ledger.note_replacement("a", "b", 1, {"model.dropout": 0.25})
    sweep.ledger.start("a", {"model.dropout": 0.25})  # Ray Tune starts it again
    sweep.epoch("a", 2, 0.5)
    sweep.ledger.note_loss("a", "its node was lost", kept=2)
    sweep.epoch("a", 3, 0.6)
    record = sweep.ledger.end("a")
    assert (record.status, record.epochs, record.best_epoch, record.parameters) == ("finished", 3, 3, own)
    assert record.changes == [{"epoch": 1, "from": 1, "parameters": {"model.dropout": 0.25}}]
    assert record.chosen == {"model.dropout": 0.25}
    assert "trial 0 goes on from trial 1 after epoch 1: dropout 0.25" in capsys.readouterr().out
