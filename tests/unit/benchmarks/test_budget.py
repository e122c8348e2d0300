"""Which cells there are, what they depend on, and how the gain is read from them."""

from pathlib import Path
from typing import Any

import pytest

from recsys.config import from_dict, to_dict
from recsys.settings import Settings

STUDENTS = {
    "sasrec": {"model": {"kind": "sasrec", "width": 8, "heads": 1}},
    "sasrec-taught": {"model": {"kind": "sasrec"}, "distillation": {"signals": "rules", "ranking": {"weight": 0.3}}},
}


@pytest.fixture
def budget(monkeypatch: pytest.MonkeyPatch, project_root: Path):
    monkeypatch.syspath_prepend(str(project_root / "benchmarks"))
    import budget

    return budget


def configured(**changes: Any) -> Settings:
    return from_dict(Settings, {"name": "shop", "students": STUDENTS, **changes})


def filled(budget, folder: Path, **curves: dict[int, float]):
    """A store of a seed with NDCG@10 by choice and percentage."""
    store = budget.Store(folder)
    for choice, curve in curves.items():
        for percent, reached in curve.items():
            value = {"metrics": {"masked": {"ndcg@10": reached, "hr@10": 0.5}}}
            value["budget"] = {"rows": percent, "of": 100, "teacher_seconds": percent / 10}
            store.write(budget.Cell(configured(), choice, percent, 0), value)
    return store


def test_the_ends_of_the_curve_come_first_and_no_cell_twice(budget) -> None:
    order = [cell.model for cell in budget.order_cells([configured()], 1)]
    assert order[:6] == ["alone", "all", "permuted-100", "random-10", "uncertainty-10", "coverage-10"]
    assert len(set(order)) == len(order) == 27
    assert order[-1] == "permuted-1"


def test_the_student_is_that_alone_with_lists_and_nothing_else(budget) -> None:
    settings = configured()
    lesson = budget.Cell(settings, "coverage", 3, 0).lesson
    assert to_dict(lesson) | {"distillation": None} == to_dict(settings.students["sasrec"])
    assert lesson.distillation.embedding is None and lesson.distillation.signals == "budget-coverage-3"
    assert lesson.distillation.ranking.weight == 0.3 and not lesson.distillation.ranking.permuted
    control = budget.Cell(settings, "permuted", 3, 0)
    assert control.lesson.distillation.ranking.permuted
    per_row = budget.Cell(settings, "per-row", 3, 0)
    assert per_row.lesson.distillation.ranking.weight == pytest.approx(0.3 * 0.03)
    assert per_row.signals(1000) == control.signals(1000)
    assert control.signals(1000) == budget.Cell(settings, "random", 3, 0).signals(1000)


def test_the_signals_ask_for_what_the_cell_says(budget) -> None:
    asked = {choice: budget.Cell(configured(), choice, 3, 2).signals(1000) for choice in budget.CHOICES}
    assert {config.train_rows for config in asked.values()} == {30}
    assert {name: config.choose_rows for name, config in asked.items()} == {name: name for name in budget.CHOICES}
    assert {config.choose_student for config in asked.values()} == {None, "sasrec.seed0"}
    assert {config.splits for config in asked.values()} == {("train",)}
    assert budget.Cell(configured(), "random", 1, 0).signals(10).train_rows == 1
    assert budget.Cell(configured(), "random", 100, 0).signals(10).train_rows is None


def test_a_cell_depends_on_what_it_is_made_of_alone(budget) -> None:
    def keys(**changes: Any) -> dict[str, str]:
        return {cell.model: cell.key for cell in budget.order_cells([configured(**changes)], 1)}

    before = keys()
    assert len(set(before.values())) == len(before)

    def changed(**changes: Any) -> set[str]:
        return {name for name, key in keys(**changes).items() if key != before[name]}

    assert changed(evaluation={"batch_size": 3}, serving={"port": 8001}) == set()
    assert changed(data={"protocol": "global_time"}) == set(before)
    taught = {"distillation": {"signals": "rules", "ranking": {"weight": 0.4}}}
    students = {**STUDENTS, "sasrec-taught": {**STUDENTS["sasrec-taught"], **taught}}
    assert changed(students=students) == changed(signals={"k": 7}) == before.keys() - {"alone"}
    seeds = {budget.Cell(configured(), "random", 10, seed).key for seed in range(3)}
    assert len(seeds) == 3


def test_enough_is_the_least_share_from_which_on_all_reach_it(budget, tmp_path: Path) -> None:
    store = filled(
        budget, tmp_path,
        random={0: 0.10, 1: 0.20, 3: 0.12, 10: 0.1901, 30: 0.195, 100: 0.20},  # a lucky 1 % does not count
        uncertainty={1: 0.1901, 3: 0.1901, 10: 0.1901, 30: 0.1901},
        coverage={1: 0.10, 3: 0.10, 10: 0.10, 30: 0.1899},
        disagreement={3: 0.2, 10: 0.2, 30: 0.2},  # a gap
        permuted={1: 0.2, 3: 0.2, 10: 0.2, 30: 0.2, 100: 0.1},
    )  # fmt: skip
    assert budget.average(store, configured(), "random", 100, 1, budget.ndcg) == 0.2
    reached = budget.enough(configured(), 1, store)
    expected = {"random": 10, "uncertainty": 1, "coverage": 100, "disagreement": None}
    expected |= {"per-row": None, "permuted": None}
    assert reached == expected


def test_curves_without_all_rows_of_their_own_end_at_all_rows(budget, tmp_path: Path) -> None:
    whole = {0: 0.10, 1: 0.11, 3: 0.12, 10: 0.13, 30: 0.14, 100: 0.20}
    chosen = {1: 0.19, 3: 0.1901, 10: 0.1901, 30: 0.1901}
    store = filled(budget, tmp_path, random=whole, uncertainty=chosen, coverage={**chosen, 30: 0.1899})
    reached = budget.enough(configured(), 1, store)
    assert (reached["random"], reached["uncertainty"], reached["coverage"]) == (100, 3, 100)


def test_a_table_says_the_share_of_the_gain_where_there_is_one(budget, tmp_path: Path) -> None:
    store = filled(budget, tmp_path, random={0: 0.10, 100: 0.20, 10: 0.15})
    (table,) = budget.tables(store, 1, [configured()])
    drawn = {row[0]: row[1:] for row in table.draw()}
    assert drawn[""][2] == "of the gain" and drawn["random-10"][2:5] == ["50%", "10", "1.0"]
    assert list(drawn)[:5] == ["", "alone", "all", "random-1", "random-3"] and drawn["random-1"][0] == "–"
    (without,) = budget.tables(filled(budget, tmp_path / "none", random={0: 0.2, 100: 0.2}), 1, [configured()])
    assert "of the gain" not in without.draw()[0]


def test_the_curves_are_drawn_with_seconds_above(budget, tmp_path: Path) -> None:
    store = filled(budget, tmp_path, random={0: 0.10, 10: 0.15, 100: 0.20}, coverage={10: 0.17})
    (axes,) = budget.draw(configured(), 1, store).axes
    lines = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
    assert lines["random"] == [[10, 0.15], [100, 0.20]] and lines["coverage"] == [[10, 0.17], [100, 0.20]]
    assert lines["alone"][0][1] == 0.10 and "uncertainty" not in lines
    (above,) = axes.child_axes
    assert above.get_xlabel() == "seconds of the teacher"


def test_the_data_sets_are_configured(budget) -> None:
    assert [settings.name for settings in budget.load()] == list(budget.DATA_SETS)
    assert all(cell.lesson and cell.signals(1000) for cell in budget.order_cells(budget.load(), 1))
