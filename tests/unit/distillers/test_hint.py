from collections.abc import Callable

import pytest
import torch

from recsys.data.prepared import PreparedDataset
from recsys.distiller import Step
from recsys.distillers.hint import Hint, HintConfig
from recsys.errors import UserError
from recsys.signals.signals import TeacherSignals


def test_the_loss_is_the_loop_over_items(
    dataset: PreparedDataset, make_signals: Callable[..., TeacherSignals], step: Step
) -> None:
    signals = make_signals()
    distiller = Hint.build(HintConfig(), signals, dataset, width=6)
    z = signals.item_embeddings[1:].double()
    z = (z - z.mean(dim=0)) / z.std(dim=0) / 5**0.5
    weight, bias = (each.detach().double() for each in (distiller.regressor.weight, distiller.regressor.bias))
    vectors = step.vectors_ND.detach().double()
    items = sorted(set(step.targets.tolist()))
    expected = 0.0
    for item in items:
        for d in range(5):
            said = float((weight[d] * vectors[item]).sum() + bias[d])
            expected += (float(z[item - 1, d]) - said) ** 2 / 2
    assert distiller(step).item() == pytest.approx(expected / len(items) * len(step.targets), rel=1e-5)


def test_embeddings_that_are_not_there_are_refused(
    dataset: PreparedDataset, make_signals: Callable[..., TeacherSignals]
) -> None:
    with pytest.raises(UserError, match=r"no text_embeddings; set distillation\.distiller\.source=item_embeddings"):
        Hint.build(HintConfig(source="text_embeddings"), make_signals(), dataset, width=6)


def test_the_teacher_is_not_trained(
    dataset: PreparedDataset, make_signals: Callable[..., TeacherSignals], step: Step
) -> None:
    distiller = Hint.build(HintConfig(), make_signals(), dataset, width=6)
    distiller(step).backward()
    assert not distiller.teacher.requires_grad and distiller.regressor.weight.grad is not None
    assert step.vectors_ND.grad is not None and torch.equal(
        step.vectors_ND.grad.abs().sum(dim=1).nonzero()[:, 0], step.targets.unique()
    )
