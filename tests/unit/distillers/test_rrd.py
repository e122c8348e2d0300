import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from recsys.config import from_dict
from recsys.data.prepared import PreparedDataset
from recsys.distiller import Step
from recsys.distillers.rrd import RRD, RRDConfig
from recsys.errors import UserError
from recsys.signals.signals import TeacherSignals


def test_the_loss_is_the_loop_over_rows_and_drawn_items(
    dataset: PreparedDataset,
    make_signals: Callable[..., TeacherSignals],
    step: Step,
    lists: Callable[[TeacherSignals], list[tuple[Any, ...]]],
) -> None:
    signals = make_signals()
    distiller = RRD(RRDConfig(k=4, interesting=3, uninteresting=5, position=2.0), signals, dataset)
    torch.manual_seed(9)
    loss = distiller(step)
    rows = lists(signals)
    torch.manual_seed(9)
    drawn = distiller.draw(torch.tensor([items for _, items, _, _ in rows]), torch.tensor([t for *_, t in rows]))
    expected = 0.0
    for (y, items, _, target), above, below in zip(rows, *(each.tolist() for each in drawn), strict=True):
        assert above == [item for item in items if item in above] and len(set(above)) == 3, "in the teacher's order"
        assert not set(below) & {*items, target}
        for place, item in enumerate(above):
            ranked = sum(math.exp(y[i]) for i in above[place:]) + sum(math.exp(y[j]) for j in below)
            expected -= y[item] - math.log(ranked)
    assert loss.item() == pytest.approx(expected / distiller.teacher.coverage, rel=1e-5)


def test_more_items_than_there_are_is_refused() -> None:
    with pytest.raises(UserError, match=r"interesting is 5, more than k \(4\)"):
        from_dict(RRDConfig, {"k": 4})
