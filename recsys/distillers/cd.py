"""CD, collaborative distillation (Lee et al., ICDM 2019)."""

from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from recsys.config import Field, configuration
from recsys.data.prepared import PreparedDataset
from recsys.distillers.draws import draw_distinct
from recsys.distillers.lists import ListConfig, ListDistiller, by_position
from recsys.signals.signals import TeacherSignals


@configuration
class CDConfig(ListConfig):
    """
    Attributes:
        items: drawn for each row.
        position: how slowly the chance of being drawn falls with the teacher's rank, in shares of K.
        temperature, bias: T and b of the soft labels.
    """

    distiller: ClassVar[str] = "recsys.distillers.cd:CD"
    kind: Literal["cd"] = "cd"
    items: int = Field(default=5, ge=1)
    position: float = Field(default=0.5, gt=0)
    temperature: float = Field(default=1.0, gt=0)
    bias: float = 0.0

    def __post_init__(self) -> None:
        self.check_drawn("items", self.items)


class CD(ListDistiller):
    """−Σ_j [ q_j log σ(y_j) + (1 − q_j) log(1 − σ(y_j)) ] / n over n items that are drawn (teacher-guided) with
    probability ∝ exp(−r/(K·position)), with soft labels q = σ((s + b)/T).

    The paper draws from all items that the user has not met; signals hold the top K. The teacher's scores s are
    standardised over the training rows' lists, because what their unit is differs from teacher to teacher; a mean takes
    the place of the sum over the n, so that λ does not depend on n.
    """

    config: CDConfig

    def __init__(self, config: CDConfig, signals: TeacherSignals, dataset: PreparedDataset) -> None:
        super().__init__(config, signals, dataset)
        merit = self.teacher.merit(torch.from_numpy(self.teacher.train_rows.nonzero()[0]))
        self.mean, self.deviation = float(merit.mean()), float(merit.std()) or 1.0

    def compare(self, logits_QN: Tensor, items_QK: Tensor, merit_QK: Tensor, targets: Tensor) -> Tensor:  # noqa: ARG002
        config, k = self.config, items_QK.shape[1]
        log_weight = by_position(k, config.position * k, merit_QK).expand(len(items_QK), k)
        columns = draw_distinct(log_weight, config.items)
        standard = (merit_QK.gather(1, columns) - self.mean) / self.deviation
        labels = torch.sigmoid((standard + config.bias) / config.temperature)
        logits = logits_QN.gather(1, items_QK.gather(1, columns) - 1)
        return F.binary_cross_entropy_with_logits(logits, labels, reduction="sum") / config.items
