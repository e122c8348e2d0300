"""The store of tuned students: what counts as equal, as missing, and what is drawn."""

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


@pytest.mark.parametrize("changed", [{"trials": 5}, {"epochs": 3}, {"search": "random"}, {"seed": 1}])
def test_unequal_budgets_are_refused(tuned: ModuleType, changed: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"shop: budgets of alone and distilled differ in {next(iter(changed))}"):
        contest(tuned, **changed)
    contest(tuned, minutes=3, concurrent=2)


def test_the_tables_have_what_exists(tuned: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made, store = contest(tuned), tuned.Store(tmp_path)
    assert tuned.show(tuned.tables(store, 2, [made]))["missing"] == 6
    for kind, ndcg in (("alone", (0.1, 0.2)), ("distilled", (0.3,))):
        winner = {"parameters": {"model.dropout": 0.25}, "quality": 0.4}
        store.write(tuned.Sweep(made, kind), {"epochs": 7, "seconds": 120.0, "first": 0.3, "winner": winner})
        for cell, value in zip(made.cells(store, kind, 2), ndcg, strict=False):
            assert cell.settings.students[cell.model].model.dropout == 0.25
            metrics = {"masked": dict.fromkeys(tuned.quality.METRICS, value)}
            store.write(cell, {"metrics": metrics, "parameters": {"served": 1234}})
    capsys.readouterr()
    figures = tuned.show(tuned.tables(store, 2, [made]))
    rows, text = figures["shop/leave_one_out"], capsys.readouterr().err
    assert figures["missing"] == 1 and rows["softmax.sweep"]["minutes"]["mean"] == 2
    assert rows["softmax-tuned"]["NDCG@10"] == {"mean": pytest.approx(0.15), "spread": pytest.approx(0.0707, abs=1e-4),
                                                "seeds": 2}  # fmt: skip
    assert "NDCG@10: **+100.0 %**." in text and "`model.dropout` 0.25" in text and "1,234" in text

    other = replace(made, spaces={kind: replace(space, trials=6) for kind, space in made.spaces.items()})
    tables = tuned.tables(store, 2, [other])
    assert tuned.show(tables)["missing"] == 6, "of another space"
    assert "**+100.0 %** †" in tables[1].notes[0]


def test_committed_spaces_fit_their_students(tuned: ModuleType) -> None:
    contests = tuned.load("/nowhere")
    assert len(contests) == len(list(tuned.SPACES.iterdir()))
    for made in contests:
        for kind in tuned.KINDS:
            check(made.student(kind), made.spaces[kind].parameters)
            assert defaults(made.student(kind), made.spaces[kind].parameters), "the student as configured is tried"
        alone, distilled = (made.spaces[kind].parameters for kind in tuned.KINDS)
        assert alone.items() <= distilled.items(), "the student alone is searched as widely"


def test_a_sweep_is_known_by_its_space(tuned: ModuleType) -> None:
    def key(kind: str = "distilled", **changes: Any) -> str:
        return tuned.Sweep(contest(tuned, **changes), kind).key

    assert key(minutes=3, concurrent=2) == key()
    (name,) = SPACE["parameters"]
    wider = {name: {**SPACE["parameters"][name], "high": 0.6}}
    other = {name: {**SPACE["parameters"][name], "kind": "loguniform"}}
    assert len({key(), key("alone"), key(parameters=wider), key(parameters=other)}) == 4
