import dataclasses
from pathlib import Path

import pytest

from recsys import storage
from recsys.errors import UserError
from recsys.serving.events import EventLog
from recsys.serving.experiment import Change
from recsys.settings import Settings
from recsys.stages import experiment
from tests.unit.experiment.conftest import simulate


def test_from_the_log_to_report_page_and_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = Settings(name="shop", storage=str(tmp_path))
    with pytest.raises(UserError, match=r"there is no log of events at .*events; serve with serving\.log=true first"):
        experiment.report(settings)
    log = EventLog(settings.layout.events)
    for row in simulate(200, clicks={"teacher": 0.3, "student": 0.3}).to_pylist():
        log.append(row["kind"], **{name: value for name, value in row.items() if name not in ("kind", "time")})
    log.close()
    found = experiment.report(settings)
    results = Path(settings.layout.results)
    assert sorted(path.name for path in results.iterdir()) == [f"experiment.{end}" for end in ("html", "json", "png")]
    assert storage.read_json(str(results / "experiment.json")) == found
    experiment.print_report(found)
    assert "keep measuring: not yet known" in capsys.readouterr().out
    changed = settings.serving.experiment.apply(Change(split={"teacher": 0.1, "student": 0.9}))
    storage.write_json(settings.layout.experiment, {"configured": {}, "current": changed.model_dump(mode="json")})
    with pytest.raises(UserError, match="the log holds no request of a user who was assigned to the"):
        experiment.report(settings)  # all of them came before the change
    with pytest.raises(UserError, match="there is no log of events at s3://"):
        experiment.report(dataclasses.replace(settings, storage="s3://bucket/runs"))
