import json
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def speed(monkeypatch: pytest.MonkeyPatch, project_root: Path) -> ModuleType:
    monkeypatch.syspath_prepend(str(project_root / "benchmarks"))
    import speed

    return speed


def test_figures_come_from_the_files_and_gaps_are_told(speed: ModuleType, monkeypatch, tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    conditions = {"hardware": {"processor": "P", "cores": 4, "memory_gb": 9.8, "gpus": []}}
    figures = {"speedup_vs_plain": 31.19, "two_worker_speedup": 1234.5, "ray_start_seconds": 2.0}
    (tmp_path / "results" / "training.json").write_text(json.dumps({**figures, "conditions": conditions}))
    monkeypatch.setattr(speed, "ROOT", tmp_path)
    (table,) = speed.tables()
    assert table.title == "P, 4 cores, 10 GB, no GPU"
    measured = {row[-2] for row in table.draw("training/*")}
    assert measured == {"measured", "31.2 times", "1,234 times", "2.0 s"}
    assert {row[-2] for row in table.draw("data/*")} == {"measured", "–"}
    assert table.draw("nothing/*") == []


def test_every_figure_is_one_of_its_benchmark(speed: ModuleType) -> None:
    for benchmark, figure, *_ in speed.ROWS:
        if speed.read(benchmark, "conditions") is not None:
            assert isinstance(speed.read(benchmark, figure), int | float), f"{benchmark}: {figure}"
