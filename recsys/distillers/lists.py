"""What distillers of ranked lists share.

Legend: P positions, Q those whose row has a list, K candidates, N items.
"""

from abc import abstractmethod
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from recsys.config import Field, configuration
from recsys.data.prepared import PreparedDataset
from recsys.distiller import Distiller, Step
from recsys.errors import UserError
from recsys.kinds import DistillerConfig
from recsys.signals.lists import TeacherLists
from recsys.signals.signals import TeacherSignals


@configuration
class ListConfig(DistillerConfig):
    """
    Attributes:
        k: the teacher's top K that is taught.
        permuted: the control of `recsys.losses.config.RankingDistillationConfig`.
    """

    kind: str
    weight: float = Field(default=0.5, ge=0)
    k: int = Field(default=10, ge=1)
    permuted: bool = False

    def check_drawn(self, name: str, count: int) -> None:
        """Raise a `ValueError` where more is to be drawn than the list holds."""
        if count > self.k:
            raise ValueError(f"{name} is {count}, more than k ({self.k}) from which they are drawn; lower it")


class ListDistiller(Distiller):
    """Learns from the ranked lists.

    The loss of the positions whose row has a list is divided by the share of the training rows that have one: λ means
    the same where the signals hold a sample.
    """

    Config: ClassVar[Any] = ListConfig

    def __init__(self, config: Any, signals: TeacherSignals, dataset: PreparedDataset) -> None:
        super().__init__()
        self.config = config
        self.num_items = dataset.num_items
        self.teacher = TeacherLists(signals, dataset, config.k, name="distillation.distiller")
        if config.k + 2 > self.num_items:
            raise UserError(
                f"distillation.distiller.k is {config.k}, but of {self.num_items} items some must be left to compare "
                f"with; set it to at most {self.num_items - 2}"
            )

    @classmethod
    def build(cls, config: Any, signals: TeacherSignals, dataset: PreparedDataset, *, width: int) -> Self:  # noqa: ARG003
        return cls(config, signals, dataset)

    def forward(self, step: Step) -> Tensor:
        found = (self.teacher.index[step.rows] >= 0).nonzero()[:, 0]
        items_QK, index = self.teacher.find(step.rows[found])
        logits_QN = step.scores.logits_PN[found]
        return self.compare(logits_QN, items_QK, self.teacher.merit(index), step.targets[found]) / self.teacher.coverage

    @abstractmethod
    def compare(self, logits_QN: Tensor, items_QK: Tensor, merit_QK: Tensor, targets: Tensor) -> Tensor:
        """The loss, summed over positions.

        Args:
            items_QK: the teacher's, best first; merit_QK: its scores of them, the greater the better.
            targets: [Q] the true items.
        """


def rank_among_all(logits_QN: Tensor, items_QK: Tensor) -> Tensor:
    """The student's rank, from 1, of some items over the whole catalogue: [Q, K]."""
    chosen = logits_QN.gather(1, items_QK - 1)
    return torch.stack([(logits_QN > column[:, None]).sum(dim=1) for column in chosen.unbind(1)], dim=1) + 1


def by_position(k: int, scale: float, like: Tensor) -> Tensor:
    """−r/scale over the ranks r = 1..K: the log weights of a draw in proportion to exp(−r/scale)."""
    return -torch.arange(1, k + 1, device=like.device, dtype=like.dtype) / scale
