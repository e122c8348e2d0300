"""What distillers of item embeddings share.

Legend: P positions, U items at hand, N items, Z width of the teacher's embeddings, D of the student's vectors.
"""

from abc import abstractmethod
from typing import Any, Literal, Self

from torch import Tensor

from recsys.config import Field, configuration
from recsys.data.prepared import PreparedDataset
from recsys.distiller import Distiller, Step
from recsys.errors import UserError
from recsys.kinds import DistillerConfig
from recsys.signals.embeddings import standardise
from recsys.signals.signals import TeacherSignals


@configuration
class EmbeddingConfig(DistillerConfig):
    """
    Attributes:
        source: as of `recsys.losses.config.EmbeddingDistillationConfig`.
    """

    kind: str
    weight: float = Field(default=0.1, ge=0)
    source: Literal["item_embeddings", "text_embeddings"] = "item_embeddings"


class EmbeddingDistiller(Distiller):
    """Learns from the teacher's item embeddings, standardised to a length of about 1; signals hold no states of users,
    so that the halves of these methods that are about users have nothing to learn from.

    The loss is a mean over the distinct true items of a step, times its positions.
    """

    needs_scores = False
    teacher: Tensor

    def __init__(self, config: Any, teacher: Tensor, *, width: int) -> None:  # noqa: ARG002
        super().__init__()
        self.config = config
        self.register_buffer("teacher", standardise(teacher)[0], persistent=False)

    @classmethod
    def build(cls, config: Any, signals: TeacherSignals, dataset: PreparedDataset, *, width: int) -> Self:  # noqa: ARG003
        source = getattr(signals, config.source)
        if source is None:
            raise UserError(
                f"the teacher signals hold no {config.source}; set distillation.distiller.source=item_embeddings"
            )
        return cls(config, source, width=width)

    def forward(self, step: Step) -> Tensor:
        items = step.targets.unique()
        return self.compare(step.vectors_ND[items], self.teacher[items]) * len(step.targets)

    @abstractmethod
    def compare(self, student_UD: Tensor, teacher_UZ: Tensor) -> Tensor:
        """The loss, a mean over the items at hand."""
