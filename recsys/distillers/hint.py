"""Hint regression (FitNets, Romero et al., ICLR 2015) of item embeddings."""

from typing import ClassVar, Literal

from torch import Tensor, nn

from recsys.config import configuration
from recsys.distillers.embeddings import EmbeddingConfig, EmbeddingDistiller


@configuration
class HintConfig(EmbeddingConfig):
    distiller: ClassVar[str] = "recsys.distillers.hint:Hint"
    kind: Literal["hint"] = "hint"


class Hint(EmbeddingDistiller):
    """½ ‖z_i − W e_i − b‖²: a learned linear regressor brings the student's vector to the teacher's width."""

    config: HintConfig

    def __init__(self, config: HintConfig, teacher: Tensor, *, width: int) -> None:
        super().__init__(config, teacher, width=width)
        self.regressor = nn.Linear(width, teacher.shape[1])

    def compare(self, student_UD: Tensor, teacher_UZ: Tensor) -> Tensor:
        return (teacher_UZ - self.regressor(student_UD)).square().sum(dim=1).mean() / 2
