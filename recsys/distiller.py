"""What a distiller is: a term of a student's loss that another method takes from the teacher's signals.

Legend: P positions with a target, N items, D width of the student.
"""

from abc import abstractmethod
from functools import cached_property

from torch import Tensor, nn

from recsys.data.prepared import PreparedDataset
from recsys.kinds import DistillerConfig
from recsys.losses.scores import CatalogueScores
from recsys.signals.signals import TeacherSignals


class Step:
    """What the student says in one training step.

    Attributes:
        hidden_PD: what it expects at each position.
        vectors_ND: [N+1, D] its item vectors, row 0 padding.
        targets, rows: [P] the true items, and the rows that teacher signals know them by.
    """

    def __init__(
        self, hidden_PD: Tensor, vectors_ND: Tensor, targets: Tensor, rows: Tensor, scores: CatalogueScores | None
    ) -> None:
        self.hidden_PD, self.vectors_ND, self.targets, self.rows = hidden_PD, vectors_ND, targets, rows
        self._scores = scores

    @cached_property
    def scores(self) -> CatalogueScores:
        """Over the whole catalogue, computed when first asked for."""
        return self._scores or CatalogueScores.of(self.hidden_PD, self.vectors_ND)


class Distiller(nn.Module):
    """Calling it with a `Step` gives the loss as a sum over positions, so that λ weighs it beside each position's own.

    Its parameters are trained with the student's and are no part of its checkpoint. What it draws comes from PyTorch's
    generator, which training seeds for every epoch.

    Attributes:
        needs_scores: whether it reads the scores of the whole catalogue.
    """

    config: DistillerConfig
    needs_scores: bool = True

    @classmethod
    @abstractmethod
    def build(
        cls, config: DistillerConfig, signals: TeacherSignals, dataset: PreparedDataset, *, width: int
    ) -> "Distiller":
        """
        Args:
            width: D.

        Raises:
            UserError: the signals lack what it learns from.
        """

    @abstractmethod
    def forward(self, step: Step) -> Tensor: ...
