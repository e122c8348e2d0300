"""What all distillers of lists share, seen on one of them."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from recsys.config import from_dict
from recsys.data.prepared import PreparedDataset
from recsys.distiller import Step
from recsys.distillers.build import build_distiller
from recsys.distillers.lists import rank_among_all
from recsys.distillers.rd import RD, RDConfig
from recsys.errors import UserError
from recsys.signals.signals import TeacherSignals


def test_rows_without_lists_count_nothing_and_those_with_them_more(
    dataset: PreparedDataset, make_signals: Callable[..., TeacherSignals], step: Step
) -> None:
    half, whole = make_signals(), make_signals(rows=dataset.rows("train"))
    config = RDConfig(k=4)
    loss = RD(config, half, dataset)(step)
    kept = torch.from_numpy(np.isin(step.rows.numpy(), half.rows))
    assert 0 < kept.sum() < len(kept)
    alone = Step(step.hidden_PD[kept], step.vectors_ND, step.targets[kept], step.rows[kept], None)
    coverage = len(half.rows) / len(dataset.rows("train"))
    assert loss.item() == pytest.approx(RD(config, half, dataset)(alone).item())
    as_whole = RD(config, half, dataset)
    as_whole.teacher.coverage = 1.0
    assert loss.item() == pytest.approx(as_whole(step).item() / coverage)
    assert RD(config, whole, dataset).teacher.coverage == 1.0
    untaught = ~kept
    nothing = RD(config, half, dataset)(
        Step(step.hidden_PD[untaught], step.vectors_ND, step.targets[untaught], step.rows[untaught], None)
    )
    assert nothing.item() == 0
    nothing.backward()  # a batch without lists is learned from as well


def test_ranks_are_those_of_a_sort() -> None:
    torch.manual_seed(0)
    logits, items = torch.randn(5, 9), torch.stack([torch.randperm(9)[:3] + 1 for _ in range(5)])
    for y, chosen, ranks in zip(logits.tolist(), items.tolist(), rank_among_all(logits, items).tolist(), strict=True):
        order = sorted(range(1, 10), key=lambda item: -y[item - 1])
        assert [order.index(item) + 1 for item in chosen] == ranks


def test_what_lists_cannot_give_is_refused(
    dataset: PreparedDataset, make_signals: Callable[..., TeacherSignals]
) -> None:
    with pytest.raises(UserError, match=r"distillation\.distiller\.k is 5, but the teacher signals hold the top 4"):
        RD(RDConfig(k=5), make_signals(), dataset)
    with pytest.raises(UserError, match=r"hold no training row .*, or set distillation\.distiller=null"):
        RD(RDConfig(k=4), make_signals(rows=dataset.rows("test")), dataset)
    with pytest.raises(UserError, match="weight"):
        from_dict(RDConfig, {"weight": -1})


def test_permuted_lists_are_those_of_other_rows(
    dataset: PreparedDataset, make_signals: Callable[..., TeacherSignals]
) -> None:
    signals = make_signals()
    made = build_distiller(RDConfig(k=4, permuted=True), signals, dataset, width=6, seed=3)
    assert isinstance(made, RD)
    assert torch.equal(made.teacher.items, torch.from_numpy(signals.permute(dataset.rows("train"), 3).items))
    assert not torch.equal(made.teacher.items, torch.from_numpy(signals.items))
