import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from recsys.config import from_dict, load_config
from recsys.errors import UserError
from recsys.settings import Settings

SASREC = {"model": {"kind": "sasrec"}}
STUDENTS = {
    "distilled": {**SASREC, "distillation": {}},
    "bce": {**SASREC, "loss": {"kind": "bce"}},
    "softmax": SASREC,
}


@pytest.fixture
def quality(monkeypatch: pytest.MonkeyPatch, project_root: Path):
    monkeypatch.syspath_prepend(str(project_root / "benchmarks"))
    import quality

    return quality


def configured(**changes: Any) -> Settings:
    return from_dict(Settings, {"name": "shop", "students": STUDENTS, **changes})


def store(quality, folder: Path, cell, ndcg: float) -> None:
    metrics = dict.fromkeys(quality.METRICS, ndcg)
    file = folder / f"{cell.id}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"key": cell.key, "metrics": {"masked": metrics}}))


def test_the_most_telling_cells_come_first(quality) -> None:
    order = quality.order_cells([configured()], seeds=2)
    assert [(cell.model, cell.seed) for cell in order] == [
        ("recent-popularity", 0), ("co-occurrence", 0), ("sequential-rules", 0), ("sequential-rules-titles", 0),
        ("softmax", 0), ("teacher", 0), ("distilled", 0), ("bce", 0),
        ("softmax", 1), ("distilled", 1), ("bce", 1),
    ]  # fmt: skip
    assert order[4].id == "shop/leave_one_out/softmax.seed0"


def test_a_cell_depends_on_what_it_is_made_of_alone(quality) -> None:
    keys = {cell.model: cell.key for cell in quality.cells(configured(), 1)}

    def changed(**changes: Any) -> set[str]:
        other = {cell.model: cell.key for cell in quality.cells(configured(**changes), 1)}
        return {name for name in keys if keys[name] != other[name]}

    assert changed(data={"path": "elsewhere", "cache": "there"}) == set()
    assert changed(teacher={"scaling": {"workers": 7}}, evaluation={"batch_size": 3}) == set()
    assert changed(data={"protocol": "global_time"}) == set(keys)
    assert changed(teacher={"training": {"epochs": 3}}) == {"teacher", "distilled"}
    assert changed(signals={"k": 7}) == {"distilled"}
    assert changed(evaluation={"recent_days": 3}) == {"recent-popularity", "co-occurrence"}
    assert changed(rules={"model": {"window": 9}}) == {"sequential-rules", "sequential-rules-titles"}
    assert changed(rules={"titles": {"max_tokens": 9}}) == {"sequential-rules-titles"}
    assert changed(students={**STUDENTS, "bce": {**STUDENTS["bce"], "training": {"epochs": 3}}}) == {"bce"}


def test_the_table_has_means_spreads_and_gaps(quality, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = configured()
    every = {(cell.model, cell.seed): cell for cell in quality.cells(settings, 3)}
    for seed, ndcg in enumerate((0.1, 0.2, 0.3)):
        store(quality, tmp_path, every["softmax", seed], ndcg)
    store(quality, tmp_path, every["distilled", 0], 0.5)
    store(quality, tmp_path, every["co-occurrence", 0], 0.15)
    stale = dataclasses.replace(every["bce", 0], settings=configured(data={"max_history": 9}))
    store(quality, tmp_path, stale, 0.9)

    figures = quality.table([settings], 3, tmp_path)
    place = figures["shop"]["leave_one_out"]
    softmax = place["sasrec"]["ndcg@10"]["alone_softmax"]
    assert softmax == {"mean": pytest.approx(0.2), "spread": pytest.approx(0.1), "seeds": 3}
    assert place["sasrec"]["hr@20"]["distilled"] == {"mean": 0.5, "spread": None, "seeds": 1}
    assert place["sasrec"]["ndcg@10"]["alone_bce"] is None, "of another configuration"
    assert place["sasrec"]["ndcg@10"]["teacher"] is None
    assert place["baselines"] == {"co-occurrence": dict.fromkeys(quality.METRICS, 0.15)}
    assert figures["missing"] == 14 - 5
    drawn = capsys.readouterr().err
    assert "0.2000 ± 0.1000 (3)" in drawn and "0.5000 (1)" in drawn and "–" in drawn


def test_two_students_of_one_place_are_refused(quality) -> None:
    with pytest.raises(UserError, match="shop: students softmax and other are both alone_softmax sasrec"):
        list(quality.cells(configured(students={**STUDENTS, "other": SASREC}), 1))


def test_committed_configurations_are_valid(quality) -> None:
    loaded = [load_config(Settings, file) for file in sorted(quality.CONFIGS.glob("*.yaml"))]
    assert loaded
    ids = [cell.id for settings in loaded for cell in quality.cells(settings, 3)]
    assert len(ids) == len(set(ids))
