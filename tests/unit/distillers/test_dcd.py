import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from recsys.config import from_dict
from recsys.data.prepared import PreparedDataset
from recsys.distiller import Step
from recsys.distillers.dcd import DCD, DCDConfig
from recsys.errors import UserError
from recsys.signals.signals import TeacherSignals

Lists = Callable[[TeacherSignals], list[tuple[Any, ...]]]


def relaxed(above: list[float], below: list[float]) -> float:
    return -sum(
        v - math.log(sum(map(math.exp, above[place:])) + sum(map(math.exp, below))) for place, v in enumerate(above)
    )


def test_the_user_side_is_the_loop_over_rows(
    dataset: PreparedDataset, make_signals: Callable[..., TeacherSignals], step: Step, lists: Lists
) -> None:
    """With room for all of them nothing is left to chance."""
    signals = make_signals()
    distiller = DCD(DCDConfig(k=4, drawn=4, items=0), signals, dataset)
    expected = 0.0
    for y, items, _, _ in lists(signals):
        order = sorted(range(1, len(y)), key=lambda item: -y[item])
        student = {item: r for r, item in enumerate(order, 1)}
        teacher = {item: r for r, item in enumerate(items, 1)}
        under = [item for item in items if student[item] > teacher[item]]
        over = [item for item in {*items, *order[:4]} if student[item] < teacher.get(item, 5)]
        assert len(under) <= 4 and len(over) <= 4
        expected += relaxed([y[i] for i in under], [y[j] for j in over])
    assert distiller(step).item() == pytest.approx(expected / distiller.teacher.coverage, rel=1e-5)


def test_items_are_ranked_by_both_and_none_twice(
    dataset: PreparedDataset, make_signals: Callable[..., TeacherSignals], step: Step, lists: Lists
) -> None:
    signals = make_signals()
    rows = lists(signals)
    distiller = DCD(DCDConfig(k=4, drawn=4), signals, dataset)
    logits, items = torch.tensor([y[1:] for y, *_ in rows]), torch.tensor([i for _, i, _, _ in rows])
    found = distiller.rank_items(logits, items)
    for (y, listed, _, _), scores, student, teacher in zip(rows, *(each.tolist() for each in found), strict=True):
        order = sorted(range(1, len(y)), key=lambda item: -y[item])
        pool = [*listed, *order[:4]]
        assert scores == pytest.approx([y[item] for item in pool])
        assert student == [order.index(item) + 1 for item in pool]
        assert teacher == [1, 2, 3, 4, *(0 if item in listed else 5 for item in order[:4])]


def test_the_item_side_is_the_loop_over_items(
    dataset: PreparedDataset, make_signals: Callable[..., TeacherSignals], step: Step, lists: Lists
) -> None:
    signals = make_signals()
    rows = lists(signals)
    distiller = DCD(DCDConfig(k=4, drawn=4, items=100), signals, dataset)
    logits = torch.tensor([y[1:] for y, *_ in rows])
    items, merit = torch.tensor([i for _, i, _, _ in rows]), torch.tensor([m for _, _, m, _ in rows])
    found = distiller.rank_rows(logits, items, merit)
    torch.manual_seed(0)
    assert len(found[0]) == len(items.unique())
    by_scores = {tuple(scores): (s, t) for scores, s, t in zip(*(each.tolist() for each in found), strict=True)}
    for item in items.unique().tolist():
        column = logits[:, item - 1].tolist()
        student, teacher = by_scores[tuple(column)]
        holders = {at: m[i.index(item)] for at, (_, i, m, _) in enumerate(rows) if item in i}
        best_first = sorted(holders, key=lambda at: -holders[at])
        for at in range(len(rows)):
            assert student[at] == 1 + sum(value > column[at] for value in column)
            assert teacher[at] == (best_first.index(at) + 1 if at in holders else len(holders) + 1)


@pytest.mark.parametrize("item_side", [0.0, 0.7])
def test_both_sides_are_weighed(
    dataset: PreparedDataset, make_signals: Callable[..., TeacherSignals], step: Step, item_side: float
) -> None:
    signals = make_signals()
    torch.manual_seed(1)
    both = DCD(DCDConfig(k=4, drawn=2, items=3, item_side=item_side), signals, dataset)(step).item()
    torch.manual_seed(1)
    user = DCD(DCDConfig(k=4, drawn=2, items=0), signals, dataset)(step).item()
    assert both > user if item_side else both == pytest.approx(user)


def test_only_wrongly_ranked_entities_are_drawn_by_how_wrong(
    dataset: PreparedDataset, make_signals: Callable[..., TeacherSignals]
) -> None:
    distiller = DCD(DCDConfig(k=4, drawn=2, discrepancy=0.5), make_signals(), dataset)
    torch.manual_seed(0)
    columns, held = distiller.draw(torch.tensor([[1.0, 3.0, -2.0, 0.0], [-1.0, 2.0, 0.0, -3.0]]).repeat(4000, 1))
    first, second = columns[::2], columns[1::2]
    assert held[::2].all() and set(first.flatten().tolist()) == {0, 1}
    share = float((first[:, 0] == 1).float().mean())
    assert share == pytest.approx(math.tanh(1.5) / (math.tanh(1.5) + math.tanh(0.5)), abs=0.03)
    assert (second[:, 0] == 1).all() and held[1::2, 0].all() and not held[1::2, 1].any()


def test_more_entities_than_there_are_is_refused() -> None:
    with pytest.raises(UserError, match=r"drawn is 5, more than k \(4\)"):
        from_dict(DCDConfig, {"k": 4})
