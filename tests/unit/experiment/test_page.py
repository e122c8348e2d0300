import re
from pathlib import Path

from recsys.experiment.analysis import analyse
from recsys.experiment.config import ExperimentConfig
from recsys.experiment.page import write_page
from tests.unit.experiment.conftest import SPLIT, simulate


def test_the_page_says_verdict_and_figures_and_loads_nothing(tmp_path: Path) -> None:
    report = analyse(simulate(600, clicks={"teacher": 0.4, "student": 0.2}), ExperimentConfig(), SPLIT)
    write_page(tmp_path / "experiment.html", report, "shop <b>")
    text = (tmp_path / "experiment.html").read_text()
    assert "Do not ship: worse by more than the margin: click_through" in text
    assert "shop &lt;b&gt;" in text and "<b>" not in text
    assert f"{report['arms']['student']['answers']:,}" in text and "beyond the margin" in text
    assert not re.search(r'(?:src|href)="(?!#)', text) and (tmp_path / "experiment.png").stat().st_size > 5000


def test_what_is_not_known_yet_is_said(tmp_path: Path) -> None:
    report = analyse(simulate(30, clicks={"teacher": 0.4, "student": 0.2}), ExperimentConfig(), SPLIT)
    write_page(tmp_path / "experiment.html", report, "shop")
    text = (tmp_path / "experiment.html").read_text()
    assert "Keep measuring" in text and "not yet known" in text
