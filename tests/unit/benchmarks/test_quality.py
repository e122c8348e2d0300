from pathlib import Path
from typing import Any

import pytest

from recsys.config import from_dict
from recsys.settings import Settings

SASREC = {"model": {"kind": "sasrec"}}
STUDENTS = {
    "hybrid": {"model": {"kind": "hybrid", "student": "taught"}},
    "distilled": {**SASREC, "distillation": {}},
    "taught": {**SASREC, "distillation": {"signals": "rules", "embedding": None}},
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


def test_the_most_telling_cells_come_first(quality) -> None:
    order = quality.order_cells([configured()], seeds=2)
    assert [(cell.model, cell.seed) for cell in order] == [
        ("recent-popularity", 0), ("co-occurrence", 0), ("sequential-rules", 0), ("sequential-rules-titles", 0),
        ("softmax", 0), ("taught", 0), ("hybrid", 0), ("teacher", 0), ("distilled", 0), ("bce", 0),
        ("softmax", 1), ("taught", 1), ("hybrid", 1), ("distilled", 1), ("bce", 1),
    ]  # fmt: skip
    assert order[4].id == "shop/leave_one_out/softmax.seed0"


def test_every_model_is_a_row(quality, tmp_path: Path) -> None:
    (table,) = quality.tables(quality.Store(tmp_path), 3, [configured()])
    assert table.id == "shop/leave_one_out"
    assert [len(row.cells) for row in table.rows] == [1, 1, 1, 1, 1, 3, 3, 3, 3, 3]


def test_a_table_shows_what_its_configuration_evaluates_by(quality, tmp_path: Path) -> None:
    value = {"metrics": {rule: dict.fromkeys(quality.METRICS, of) for rule, of in (("masked", 0.2), ("unmasked", 0.1))}}
    for mask_seen, says, shown in ((True, "past left out", "0.2000"), (False, "ranked as well or left out", "0.1000")):
        settings, store = configured(evaluation={"mask_seen": mask_seen}), quality.Store(tmp_path)
        store.write(next(quality.cells(settings, 1)), value)
        (table,) = quality.tables(store, 1, [settings])
        assert table.title.endswith(says) and table.draw("*/recent-popularity")[1][1] == shown


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
    by_rules = {"taught", "hybrid"}
    assert changed(rules={"model": {"window": 9}}) == {"sequential-rules", "sequential-rules-titles", *by_rules}
    assert changed(rules={"titles": {"max_tokens": 9}}) == {"sequential-rules-titles", *by_rules}
    assert changed(students={**STUDENTS, "taught": {**STUDENTS["taught"], "training": {"epochs": 3}}}) == by_rules
    assert changed(students={**STUDENTS, "bce": {**STUDENTS["bce"], "training": {"epochs": 3}}}) == {"bce"}


def test_committed_configurations_are_valid(quality) -> None:
    loaded = quality.load()
    assert loaded
    ids = [cell.id for settings in loaded for cell in quality.cells(settings, 3)]
    assert len(ids) == len(set(ids))
