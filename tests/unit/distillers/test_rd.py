import math
from collections.abc import Callable
from typing import Any

import pytest

from recsys.data.prepared import PreparedDataset
from recsys.distiller import Step
from recsys.distillers.rd import RD, RDConfig
from recsys.signals.signals import TeacherSignals


def test_the_loss_is_the_loop_over_rows_and_ranks(
    dataset: PreparedDataset,
    make_signals: Callable[..., TeacherSignals],
    step: Step,
    lists: Callable[[TeacherSignals], list[tuple[Any, ...]]],
) -> None:
    signals = make_signals()
    distiller = RD(RDConfig(k=4, position=1.7, discrepancy=0.3), signals, dataset)
    expected = 0.0
    for y, items, _, _ in lists(signals):
        order = sorted(range(1, len(y)), key=lambda item: -y[item])
        weights = [
            math.exp(-r / 1.7) * math.tanh(max(0.3 * (order.index(item) + 1 - r), 0)) for r, item in enumerate(items, 1)
        ]
        if sum(weights):
            expected += sum(
                w / sum(weights) * math.log(1 + math.exp(-y[i])) for w, i in zip(weights, items, strict=True)
            )
    assert distiller(step).item() == pytest.approx(expected / distiller.teacher.coverage, rel=1e-5)
