import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from recsys.data.prepared import PreparedDataset
from recsys.distiller import Step
from recsys.distillers.unkd import UnKD, UnKDConfig, group_by_popularity
from recsys.signals.signals import TeacherSignals


def test_the_loss_is_the_loop_over_rows_and_pairs(
    dataset: PreparedDataset,
    make_signals: Callable[..., TeacherSignals],
    step: Step,
    lists: Callable[[TeacherSignals], list[tuple[Any, ...]]],
) -> None:
    signals = make_signals()
    distiller = UnKD(UnKDConfig(k=4, groups=3, pairs=6), signals, dataset)
    torch.manual_seed(9)
    loss = distiller(step)
    rows = lists(signals)
    torch.manual_seed(9)
    drawn = distiller.draw(torch.tensor([items for _, items, _, _ in rows]))
    group = group_by_popularity(dataset.catalogue.train_counts[1:], 3)
    expected, left_out = 0.0, 0
    for (y, items, _, _), higher, lower, held in zip(rows, *(each.tolist() for each in drawn), strict=True):
        terms = []
        for i, j, use in zip(higher, lower, held, strict=True):
            assert i in items and group[i - 1] == group[j - 1]
            assert use == (j not in items[: items.index(i) + 1]), "the teacher ranks j lower"
            left_out += not use
            if use:
                terms.append(math.log(1 + math.exp(y[j] - y[i])))
        expected += sum(terms) / max(len(terms), 1)
    assert left_out
    assert loss.item() == pytest.approx(expected / distiller.teacher.coverage, rel=1e-5)


def test_groups_of_the_list_are_equally_likely_and_within_them_rank_decides(
    dataset: PreparedDataset, make_signals: Callable[..., TeacherSignals]
) -> None:
    distiller = UnKD(UnKDConfig(k=4, groups=2, pairs=4000, position=2.0), make_signals(), dataset)
    popular, rare = [(distiller.group == g).nonzero()[:, 0] + 1 for g in (0, 1)]
    items = torch.stack([popular[0], rare[0], popular[1], popular[2]])
    torch.manual_seed(0)
    higher, lower, _ = distiller.draw(items[None])
    counts = Counter(higher[0].tolist())
    assert counts[int(rare[0])] / 4000 == pytest.approx(0.5, abs=0.03)
    whole = sum(math.exp(-r / 2) for r in (1, 2, 3))
    for place, item in enumerate(popular[:3].tolist(), 1):
        assert counts[item] / 4000 == pytest.approx(0.5 * math.exp(-place / 2) / whole, abs=0.03)
    of_rare = lower[0][higher[0] == rare[0]]
    assert set(of_rare.tolist()) == set(rare.tolist())


def test_groups_have_equal_shares_of_what_was_counted() -> None:
    counts = np.random.default_rng(0).integers(0, 50, 400)
    group = group_by_popularity(counts, 4)
    assert [counts[group == g].sum() / counts.sum() for g in range(4)] == pytest.approx([0.25] * 4, abs=0.02)
    order = np.argsort(-counts, kind="stable")
    assert (np.diff(group[order]) >= 0).all(), "the more popular, the earlier the group"
    assert np.bincount(group_by_popularity(np.zeros(8, dtype=int), 4)).tolist() == [2, 2, 2, 2]
