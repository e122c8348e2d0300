"""Stores of cells and what is drawn from them."""

from argparse import Namespace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from recsys.errors import UserError


@pytest.fixture
def cells(monkeypatch: pytest.MonkeyPatch, project_root: Path) -> ModuleType:
    monkeypatch.syspath_prepend(str(project_root / "benchmarks"))
    import cells

    return cells


def options(cells: ModuleType, minutes: float = 1, **args: Any) -> Any:
    return cells.Options(False, minutes, None, Namespace(**{"only": "*", "table": False, **args}))


def test_a_cell_is_kept_with_its_conditions(cells: ModuleType, tmp_path: Path) -> None:
    store, cell = cells.Store(tmp_path), cells.Gap("shop/leave_one_out/a.seed0", "key")
    assert store.read(cell) is None
    store.write(cell, {"ndcg": 0.5})
    value = store.read(cell)
    assert value["ndcg"] == 0.5 and "torch" in value["versions"] and {"processor", "cores"} <= value["hardware"].keys()
    assert [path.name for path in (tmp_path / "shop/leave_one_out").iterdir()] == ["a.seed0.json"]
    changed = cell._replace(key="other")
    assert store.read(changed) is None and store.read(changed, earlier=True) == value
    assert store.missing([cell, changed]) == [changed]


def test_what_is_missing_is_filled_until_the_time_is_up(cells: ModuleType, tmp_path: Path, capsys) -> None:
    store = cells.Store(tmp_path)
    ids = ("there/x", "gone/x", "gone/y", "there/y", "there/z", "there/late", "there/never")
    every = [cells.Gap(name, "key") for name in ids]
    store.write(every[0], {})

    def prepared(cell: Any, _: Any) -> str:
        if cell.id.startswith("gone"):
            raise UserError("no such data set")
        return "data"

    def compute(cell: Any, dataset: str, _: Any) -> dict[str, Any]:
        if cell.id == "there/late":
            raise cells.OutOfTimeError
        return {"dataset": dataset}

    def fill(**changes: Any) -> list[str]:
        cells.fill(store, every, prepared, compute, options(cells, **changes))
        return [cell.id for cell in store.missing(every)]

    assert fill(table=True) == fill(minutes=0) == [*ids[1:]]
    assert "1 of 7 cells are there" in capsys.readouterr().err
    assert fill(only="*/y") == ["gone/x", "gone/y", "there/z", "there/late", "there/never"]
    capsys.readouterr()
    assert fill() == ["gone/x", "gone/y", "there/late", "there/never"]
    assert capsys.readouterr().err.count("left out: no such data set") == 1
    assert store.read(every[4])["dataset"] == "data"


def test_tables_have_means_spreads_gaps_and_marks(cells: ModuleType, tmp_path: Path, capsys) -> None:
    store = cells.Store(tmp_path)
    rows = {name: [cells.Gap(f"shop/loo/{name}.seed{n}", "key") for n in range(3)] for name in ("a", "b", "old", "no")}
    for (name, seed), number in {("a", 0): 0.1, ("a", 1): 0.2, ("a", 2): 0.3, ("b", 1): 0.5, ("old", 0): 0.9}.items():
        cell = rows[name][seed]
        store.write(cell._replace(key="before") if name == "old" else cell, {"ndcg": number})
    columns = {"NDCG": cells.Column(lambda value: value["ndcg"])}
    drawn = [cells.Row(name, row, "second" if name == "b" else "") for name, row in rows.items()]
    table = cells.Table("shop/loo", "test", store, columns, drawn, ["A note."])
    figures = cells.show([table])
    assert figures["shop/loo"]["a"]["NDCG"] == {"mean": pytest.approx(0.2), "spread": pytest.approx(0.1), "seeds": 3}
    assert figures["shop/loo"]["b"]["NDCG"] == {"mean": 0.5, "spread": None, "seeds": 1}
    assert figures["shop/loo"]["no"]["NDCG"] is None and figures["missing"] == 8
    assert "0.2000 ± 0.1000" in capsys.readouterr().err

    page = "Before.\n\n<!-- drawn: shop {} -->\nold\n<!-- end -->\n\nAfter.\n"
    text = cells.redraw(page.format("*"), {"shop": [table]}.__getitem__)
    assert text.startswith("Before.\n") and text.endswith("\n\nAfter.\n") and "\nold\n" not in text
    for line in ("| a | 0.2000 ± 0.1000 | 3 |", "| second | 0.5000 | 1 of 3 |", "| no | – | 0 of 3 |", "A note."):
        assert line in text
    assert "| old † | 0.9000 | 1 of 3 |" in text and "\n\n† of an earlier configuration" in text
    assert cells.redraw(text, {"shop": [table]}.__getitem__) == text
    part = cells.redraw(page.format("shop/*/b"), {"shop": [table]}.__getitem__)
    assert "| second |" in part and "| a |" not in part and "†" not in part


def test_the_pages_show_what_the_files_hold(cells: ModuleType, tmp_path: Path) -> None:
    pages = [page for page in cells.DOCS.rglob("*.md") if "<!-- drawn: " in page.read_text()]
    assert cells.DOCS / "results.md" in pages
    for page in pages:
        (tmp_path / page.name).write_text(page.read_text())
    assert not cells.draw_pages(tmp_path), "python benchmarks --tables draws them anew"
