"""RD, ranking distillation (Tang and Wang, KDD 2018)."""

from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from recsys.config import Field, configuration
from recsys.distillers.lists import ListConfig, ListDistiller, by_position, rank_among_all


@configuration
class RDConfig(ListConfig):
    """
    Attributes:
        position: λ, how slowly the weight falls with the teacher's rank.
        discrepancy: μ, how fast it rises with the ranks that the student places an item too low.
    """

    distiller: ClassVar[str] = "recsys.distillers.rd:RD"
    kind: Literal["rd"] = "rd"
    position: float = Field(default=1.0, gt=0)
    discrepancy: float = Field(default=0.1, gt=0)


class RD(ListDistiller):
    """−Σ_r w_r log σ(y_r), with w_r ∝ exp(−r/λ) · tanh(max(μ (r̂_r − r), 0)) adding up to 1 over the list (hybrid
    weights); r̂ is the student's rank.

    The paper estimates r̂ from sampled items and begins with the first factor alone; here r̂ is exact, and both count
    from the start. A list that the student ranks no lower counts nothing.
    """

    config: RDConfig

    def compare(self, logits_QN: Tensor, items_QK: Tensor, merit_QK: Tensor, targets: Tensor) -> Tensor:  # noqa: ARG002
        config, k = self.config, items_QK.shape[1]
        with torch.no_grad():
            too_low = rank_among_all(logits_QN, items_QK) - torch.arange(1, k + 1, device=items_QK.device)
            by_discrepancy = torch.tanh(config.discrepancy * too_low.clamp_min(0))
            weights = F.normalize(by_position(k, config.position, logits_QN).exp() * by_discrepancy, p=1, dim=1)
        return -(weights * F.logsigmoid(logits_QN.gather(1, items_QK - 1))).sum()
