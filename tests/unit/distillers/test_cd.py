import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from recsys.config import from_dict
from recsys.data.prepared import PreparedDataset
from recsys.distiller import Step
from recsys.distillers.cd import CD, CDConfig
from recsys.distillers.draws import draw_distinct
from recsys.errors import UserError
from recsys.signals.signals import TeacherSignals


@pytest.mark.parametrize("higher_is_better", [True, False])
def test_the_loss_is_the_loop_over_rows_and_drawn_items(
    dataset: PreparedDataset,
    make_signals: Callable[..., TeacherSignals],
    step: Step,
    lists: Callable[[TeacherSignals], list[tuple[Any, ...]]],
    higher_is_better: bool,
) -> None:
    signals = make_signals(higher_is_better=higher_is_better)
    config = CDConfig(k=4, items=3, position=0.4, temperature=0.7, bias=0.2)
    distiller = CD(config, signals, dataset)
    torch.manual_seed(9)
    loss = distiller(step)
    rows = lists(signals)
    torch.manual_seed(9)
    columns = draw_distinct((-torch.arange(1, 5) / (0.4 * 4)).expand(len(rows), 4), 3)
    scores = signals.scores if higher_is_better else -signals.scores
    expected = 0.0
    for (y, items, merit, _), drawn in zip(rows, columns.tolist(), strict=True):
        for column in drawn:
            q = 1 / (1 + math.exp(-((merit[column] - scores.mean()) / scores.std(ddof=1) + 0.2) / 0.7))
            p = 1 / (1 + math.exp(-y[items[column]]))
            expected -= (q * math.log(p) + (1 - q) * math.log(1 - p)) / 3
    assert loss.item() == pytest.approx(expected / distiller.teacher.coverage, rel=1e-4)


def test_more_items_than_there_are_is_refused() -> None:
    with pytest.raises(UserError, match=r"items is 5, more than k \(4\)"):
        from_dict(CDConfig, {"k": 4})
