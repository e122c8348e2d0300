"""The store of tuned students: what counts as equal, as missing, and what is drawn."""

import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from recsys.config import from_dict
from recsys.errors import UserError
from recsys.settings import Settings
from recsys.tuning.config import SweepConfig, check, defaults

BENCHMARKS = Path(__file__).resolve().parents[3] / "benchmarks"
STUDENTS: dict[str, Any] = {
    "softmax": {"model": {"kind": "sasrec"}, "training": {"epochs": 15}},
    "distilled": {"model": {"kind": "sasrec"}, "training": {"epochs": 15}, "distillation": {}},
}
SPACE: dict[str, Any] = {
    "trials": 4,
    "epochs": 2,
    "parameters": {"model.dropout": {"kind": "uniform", "low": 0.1, "high": 0.5}},
}


@pytest.fixture
def tuned(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import tuned

    return tuned


def contest(tuned: ModuleType, **distilled: Any) -> Any:
    settings = from_dict(Settings, {"name": "shop", "students": STUDENTS})
    spaces = {
        "alone": from_dict(SweepConfig, {**SPACE, "student": "softmax"}),
        "distilled": from_dict(SweepConfig, {**SPACE, "student": "distilled", **distilled}),
    }
    return tuned.Contest(settings, spaces)


def keep(file: Path, value: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(value))


@pytest.mark.parametrize("changed", [{"trials": 5}, {"epochs": 3}, {"search": "random"}, {"seed": 1}])
def test_unequal_budgets_are_refused(tuned: ModuleType, changed: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"shop: budgets of alone and distilled differ in {next(iter(changed))}"):
        contest(tuned, **changed)
    contest(tuned, minutes=3, concurrent=2)


def test_the_table_has_what_exists_and_the_page_keeps_the_rest(tuned: ModuleType, tmp_path: Path) -> None:
    made = contest(tuned)
    page = tmp_path / "results.md"
    page.write_text("# Results\n\nBefore.\n")
    figures = tuned.table([made], tmp_path, 2, page)
    assert figures["missing"] == 6 and "| **test NDCG@10** | – | – |" in page.read_text()
    for kind, ndcg in (("alone", (0.1, 0.2)), ("distilled", (0.3,))):
        winner = {"parameters": {"model.dropout": 0.25}, "quality": 0.4}
        sweep = {"trials": 4, "epochs": 7, "seconds": 120.0, "first": 0.3, "winner": winner}
        keep(tmp_path / f"{made.file(kind)}.json", {"key": made.key(kind), **sweep})
        for cell, value in zip(made.cells(tmp_path, kind, 2), ndcg, strict=False):
            assert cell.settings.students[cell.model].model.dropout == 0.25
            metrics = {"masked": {"ndcg@10": value, "hr@10": 2 * value}}
            keep(tmp_path / f"{cell.id}.json", {"key": cell.key, "metrics": metrics, "parameters": {"served": 1234}})
    page.write_text(page.read_text() + "\nAfter.\n")
    figures = tuned.table([made], tmp_path, 2, page)
    text = page.read_text()
    assert figures["missing"] == 1
    assert "| **test NDCG@10** | 0.1500 ± 0.0707 (2) | 0.3000 (1) |" in text
    assert "NDCG@10: **+100.0 %**" in text and "`model.dropout` 0.25" in text and "| numbers served | 1,234" in text
    assert text.startswith("# Results\n\nBefore.\n") and text.endswith("\nAfter.\n")
    assert text.count("tuned alone against tuned distilled") == 1

    other = replace(made, spaces={kind: replace(space, trials=6) for kind, space in made.spaces.items()})
    assert tuned.table([other], tmp_path, 2, None)["missing"] == 6, "of another space"


def test_committed_spaces_fit_their_students(tuned: ModuleType) -> None:
    contests = tuned.load("/nowhere")
    assert contests
    for made in contests:
        for kind in tuned.KINDS:
            check(made.student(kind), made.spaces[kind].parameters)
            assert defaults(made.student(kind), made.spaces[kind].parameters), "the student as configured is tried"
        alone, distilled = (made.spaces[kind].parameters for kind in tuned.KINDS)
        assert alone.items() <= distilled.items(), "the student alone is searched as widely"


def test_a_sweep_is_known_by_its_space(tuned: ModuleType) -> None:
    key = contest(tuned).key("distilled")
    assert contest(tuned, minutes=3, concurrent=2).key("distilled") == key
    (name,) = SPACE["parameters"]
    wider = {name: {**SPACE["parameters"][name], "high": 0.6}}
    other = {name: {**SPACE["parameters"][name], "kind": "loguniform"}}
    assert (
        len(
            {key, contest(tuned).key("alone"), *(contest(tuned, parameters=p).key("distilled") for p in (wider, other))}
        )
        == 4
    )
