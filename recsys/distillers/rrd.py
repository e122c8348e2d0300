"""RRD, relaxed ranking distillation (Kang et al., CIKM 2020)."""

from typing import ClassVar, Literal

import torch
from torch import Tensor

from recsys.config import Field, configuration
from recsys.distillers.draws import draw_distinct, draw_others
from recsys.distillers.lists import ListConfig, ListDistiller, by_position
from recsys.losses.relaxed_ranking import relaxed_ranking_loss


@configuration
class RRDConfig(ListConfig):
    """
    Attributes:
        interesting: items drawn from the teacher's list.
        uninteresting: items drawn from outside it.
        position: T, how slowly the chance of being drawn falls with the teacher's rank.
    """

    distiller: ClassVar[str] = "recsys.distillers.rrd:RRD"
    kind: Literal["rrd"] = "rrd"
    weight: float = Field(default=0.1, ge=0)
    interesting: int = Field(default=5, ge=1)
    uninteresting: int = Field(default=50, ge=1)
    position: float = Field(default=10.0, gt=0)

    def __post_init__(self) -> None:
        self.check_drawn("interesting", self.interesting)


class RRD(ListDistiller):
    """The relaxed ranking likelihood of interesting items, drawn from the teacher's list with probability
    ∝ exp(−r/T), above uninteresting ones, drawn evenly from all but the list and the true item.

    Drawn anew in every step; the authors draw once in an epoch.
    """

    config: RRDConfig

    def draw(self, items_QK: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The interesting items in the teacher's order, and the uninteresting ones."""
        k, config = items_QK.shape[1], self.config
        log_weight = by_position(k, config.position, torch.zeros(0, device=items_QK.device)).expand(len(items_QK), k)
        columns = draw_distinct(log_weight, config.interesting).sort(dim=1).values
        left_out = torch.cat([items_QK, targets[:, None]], dim=1)
        return items_QK.gather(1, columns), draw_others(left_out, self.num_items, config.uninteresting)

    def compare(self, logits_QN: Tensor, items_QK: Tensor, merit_QK: Tensor, targets: Tensor) -> Tensor:  # noqa: ARG002
        interesting, uninteresting = self.draw(items_QK, targets)
        return relaxed_ranking_loss(logits_QN.gather(1, interesting - 1), logits_QN.gather(1, uninteresting - 1))
