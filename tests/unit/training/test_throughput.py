from pathlib import Path

import pytest
import torch

from recsys.data.prepared import PreparedDataset
from recsys.losses.config import RecommendationLossConfig
from recsys.students.build import build_student
from recsys.students.config import SASRecConfig
from recsys.training.config import TrainingConfig
from recsys.training.loop import train_local
from recsys.training.objective import NextItemObjective, Objective
from recsys.training.throughput import Meter, peak_of, training_flops

MODEL = SASRecConfig(width=16, blocks=1, heads=1, max_positions=8, dropout=0.5)


@pytest.fixture
def objective(walks: PreparedDataset) -> NextItemObjective:
    return build_student(MODEL, walks, loss=RecommendationLossConfig(), seed=0)


class Product(Objective):
    """Two layers, the first of which is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Linear(10, 30, bias=False), torch.nn.Linear(30, 20, bias=False)
        self.first.requires_grad_(False)

    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return self.second(self.first(batch["items"].float()))


def test_operations_are_those_of_the_products() -> None:
    items = torch.ones(7, 10, dtype=torch.int64)
    forward = 2 * 7 * (10 * 30 + 30 * 20)
    assert training_flops(Product(), {"items": items}) == pytest.approx(forward * (2 + 600 / 900))


def test_the_meter_counts_and_changes_nothing(walks: PreparedDataset, objective: NextItemObjective) -> None:
    config = TrainingConfig(batch_size=8)
    batches = [batch for batch, _ in objective.batches(walks, config, rank=0, world=1).epoch(0)]
    meter = Meter(objective, torch.device("cpu"), peak=1e9)
    torch.manual_seed(0)
    for batch in batches:
        meter.before(batch)
        meter.after(batch)
    drawn = torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(drawn, torch.rand(1))
    speed = meter.read(2.0)
    rows = sum(int((batch["targets"] > 0).sum()) for batch in batches)
    tokens = sum(int((batch["items"] > 0).sum()) for batch in batches)
    assert (speed["rows_per_second"], speed["tokens_per_second"]) == (rows / 2, tokens / 2)
    one = {name: tensor[:1] for name, tensor in batches[0].items()}
    expected = tokens / 2 * training_flops(objective, one) / int((one["items"] > 0).sum()) / 1e9
    assert speed["flops_utilisation"] == pytest.approx(expected)
    assert meter.read(1.0)["tokens_per_second"] == 0


def test_every_epoch_tells_its_speed(walks: PreparedDataset, objective: NextItemObjective, tmp_path: Path) -> None:
    curve = train_local(objective, walks, TrainingConfig(epochs=2, batch_size=8), tmp_path).progress.curve
    for record in curve:
        assert record["rows_per_second"] == pytest.approx(record["targets_per_second"])
        assert record["tokens_per_second"] >= record["rows_per_second"] > 0
        assert "flops_utilisation" not in record  # no processor's peak is known


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA A10G", 70e12),
        ("NVIDIA L40S", 362e12),
        ("Some card", None),
    ],
)
def test_peaks_go_by_the_name(name: str, peak: float | None) -> None:
    assert peak_of(name) == peak
