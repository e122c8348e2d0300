"""One step of plain PyTorch: what of the configuration reaches it."""

import math

import pytest
import torch

from recsys.data.prepared import PreparedDataset
from recsys.losses.config import RecommendationLossConfig
from recsys.students.build import build_student
from recsys.students.config import SASRecConfig
from recsys.training import engine as module
from recsys.training.batches import Batch
from recsys.training.config import TrainingConfig
from recsys.training.engine import Engine, build_engine

MODEL = SASRecConfig(width=16, blocks=1, heads=1, max_positions=8, dropout=0.0)


def started(walks: PreparedDataset, **options: object) -> tuple[Engine, Batch, int]:
    """An engine, a batch and its number of targets."""
    config = TrainingConfig(batch_size=16, **options)
    objective = build_student(MODEL, walks, loss=RecommendationLossConfig(), seed=0)
    batch, total = next(objective.batches(walks, config, rank=0, world=1).epoch(0))
    return build_engine(objective, config, torch.device("cpu")), batch, total


def test_weight_decay_is_for_matrices(walks: PreparedDataset) -> None:
    engine, batch, total = started(walks, weight_decay=100.0)
    before = {name: tensor.clone() for name, tensor in engine.export_state().items()}
    rate = 1e-3  # Adam moves a weight by no more; decay takes a tenth
    engine.step(batch, total, rate)
    for name, tensor in engine.export_state().items():
        kept = 0.9 if tensor.dim() >= 2 else 1.0
        torch.testing.assert_close(tensor, kept * before[name], atol=1.01 * rate, rtol=0, msg=name)


def test_gradients_are_clipped_to_their_common_length(walks: PreparedDataset) -> None:
    lengths = []
    for limit in (0.0, 0.01):
        engine, batch, total = started(walks, gradient_clipping=limit)
        engine.step(batch, total, 1e-3)
        lengths.append(math.sqrt(sum(float(p.grad.square().sum()) for p in engine.objective.parameters())))
    assert lengths[0] > 0.1
    assert lengths[1] == pytest.approx(0.01, rel=1e-3)


def test_a_step_takes_the_rate_it_is_given(walks: PreparedDataset) -> None:
    engine, batch, total = started(walks)
    before = engine.export_state()
    engine.step(batch, total, 0.0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in engine.export_state().items())
    engine.step(batch, total, 1e-3)
    assert not torch.equal(engine.export_state()["items.weight"], before["items.weight"])


def test_sums_become_means_over_the_batch_of_all_processes(
    walks: PreparedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gradients are averaged over processes, so that each gives the mean of all times their number."""
    engine, batch, total = started(walks)
    alone = engine.step(batch, total, 0.0)["loss"].item()
    gradient = engine.objective.model.items.weight.grad.clone()
    assert alone == pytest.approx(engine.objective(batch)[0].item() / total, rel=1e-5)
    monkeypatch.setattr(module, "world", lambda: (0, 2))  # the other one has as many targets
    assert engine.step(batch, 2 * total, 0.0)["loss"].item() == pytest.approx(alone, rel=1e-5)
    torch.testing.assert_close(engine.objective.model.items.weight.grad, gradient)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_step_computes_in_the_precision_that_is_asked_for(walks: PreparedDataset, precision: str) -> None:
    engine, batch, total = started(walks, precision=precision)
    cast = []
    engine.objective.register_forward_pre_hook(lambda *_: cast.append(torch.is_autocast_enabled("cpu")))
    engine.step(batch, total, 1e-3)
    assert cast == [precision == "bf16"]
