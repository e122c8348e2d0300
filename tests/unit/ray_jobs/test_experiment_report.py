import sys
from pathlib import Path

import pytest

from ray_jobs import experiment_report
from recsys import storage
from recsys.serving.events import EventLog
from tests.unit.experiment.conftest import simulate


def test_the_command_says_and_keeps_the_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log = EventLog(tmp_path / "shop" / "events")
    for row in simulate(900, clicks={"teacher": 0.2, "student": 0.2}).to_pylist():
        log.append(row["kind"], **{name: value for name, value in row.items() if name not in ("kind", "time")})
    log.close()
    call = ["experiment_report", "--storage", str(tmp_path), "name=shop", "experiment.error_margin=0.1"]
    for margin, verdict in (("0.2", "ship: no worse"), ("0.0001", "keep measuring: not yet known: click_through")):
        monkeypatch.setattr(sys, "argv", [*call, "--margin", margin])
        experiment_report.main()
        said = capsys.readouterr().out
        assert verdict in said and "experiment.html" in said
        stored = storage.read_json(str(tmp_path / "shop" / "results" / "experiment.json"))
        assert stored["config"]["margin"] == float(margin) and said.count(stored["reason"]) == 1


def test_a_margin_that_is_none_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["experiment_report", "--storage", str(tmp_path), "--margin", "2"])
    with pytest.raises(SystemExit) as ended:
        experiment_report.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("error: margin: ")
