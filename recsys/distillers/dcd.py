"""DCD, dual correction (Lee and Kim, CIKM 2021)."""

from typing import ClassVar, Literal

import torch
from torch import Tensor

from recsys.config import Field, configuration
from recsys.distillers.draws import draw_distinct
from recsys.distillers.lists import ListConfig, ListDistiller, rank_among_all
from recsys.losses.relaxed_ranking import relaxed_ranking_loss


@configuration
class DCDConfig(ListConfig):
    """
    Attributes:
        drawn: under- and overestimated entities for each row, and for each item.
        discrepancy: ε, how fast the chance of being drawn rises with the difference of ranks.
        items: of a step, drawn for the item side; 0 leaves it out.
        item_side: its weight beside the user side.
    """

    distiller: ClassVar[str] = "recsys.distillers.dcd:DCD"
    kind: Literal["dcd"] = "dcd"
    weight: float = Field(default=0.1, ge=0)
    drawn: int = Field(default=5, ge=1)
    discrepancy: float = Field(default=0.1, gt=0)
    items: int = Field(default=32, ge=0)
    item_side: float = Field(default=1.0, ge=0)

    def __post_init__(self) -> None:
        self.check_drawn("drawn", self.drawn)


class DCD(ListDistiller):
    """The relaxed ranking likelihood of underestimated entities, which the student ranks lower than the teacher, above
    overestimated ones, which it ranks higher; both drawn with probability ∝ tanh(ε · difference of ranks).

    User side: the student's ranks are over the whole catalogue; overestimated items come from the teacher's list and
    the student's own top K. Item side: the entities are the rows of the step, for items drawn from their lists; the
    loss is a mean over the items, times the rows. What the signals do not rank (an item outside the list, a row whose
    list lacks the item) ranks right below what they do. The authors compare ranks within the teacher's top 500, every
    third epoch; lists of ten would not say what else an item is to be ranked above.
    """

    config: DCDConfig

    def compare(self, logits_QN: Tensor, items_QK: Tensor, merit_QK: Tensor, targets: Tensor) -> Tensor:  # noqa: ARG002
        loss = self._correct(*self.rank_items(logits_QN, items_QK))
        if self.config.items and self.config.item_side and len(items_QK):
            scores, student, teacher = self.rank_rows(logits_QN, items_QK, merit_QK)
            side = self._correct(scores, student, teacher) * len(items_QK) / len(scores)
            loss = loss + self.config.item_side * side
        return loss

    def rank_items(self, logits_QN: Tensor, items_QK: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of the teacher's K items and the student's own top K, [Q, 2K] each: logits, the student's ranks, and the
        teacher's, 0 for an item of the latter that is among the former."""
        k = items_QK.shape[1]
        own_QK = logits_QN.detach().topk(k, dim=1).indices + 1
        ranks = torch.arange(1, k + 1, device=items_QK.device).expand(len(items_QK), k)
        listed = (own_QK[:, :, None] == items_QK[:, None, :]).any(dim=2)
        student = torch.cat([rank_among_all(logits_QN.detach(), items_QK), ranks], dim=1)
        teacher = torch.cat([ranks, torch.full_like(own_QK, k + 1).masked_fill(listed, 0)], dim=1)
        return logits_QN.gather(1, torch.cat([items_QK, own_QK], dim=1) - 1), student, teacher

    def rank_rows(self, logits_QN: Tensor, items_QK: Tensor, merit_QK: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of the rows, for each of some items of their lists, [items, Q] each: logits, and the ranks that the student
        and the teacher give them. The teacher's are by its scores; rows without the item come after all others."""
        items = items_QK.unique()
        items = items[torch.randperm(len(items), device=items.device)[: self.config.items]]
        held_IQK = items_QK[None] == items[:, None, None]
        merit_IQ = torch.where(held_IQK, merit_QK[None], -torch.inf).amax(dim=2)
        held_IQ = held_IQK.any(dim=2)
        logits_IQ = logits_QN[:, items - 1].T
        teacher = merit_IQ.argsort(dim=1, descending=True, stable=True).argsort(dim=1) + 1
        teacher = torch.where(held_IQ, teacher, held_IQ.sum(dim=1, keepdim=True) + 1)
        student = logits_IQ.detach().argsort(dim=1, descending=True, stable=True).argsort(dim=1) + 1
        return logits_IQ, student, teacher

    def draw(self, too_far: Tensor) -> tuple[Tensor, Tensor]:
        """Columns drawn by how far their ranks are apart, and which of them are so at all: [A, drawn] each."""
        weight = torch.tanh(self.config.discrepancy * too_far.clamp_min(0))
        columns = draw_distinct(weight.log(), min(self.config.drawn, weight.shape[1]))
        return columns, weight.gather(1, columns) > 0

    def _correct(self, scores: Tensor, student: Tensor, teacher: Tensor) -> Tensor:
        """The loss over entities in columns, [A, B] each; a teacher's rank of 0 leaves one out."""
        with torch.no_grad():
            known = teacher > 0
            under, under_held = self.draw((student - teacher).float() * known)
            over, over_held = self.draw((teacher - student).float() * known)
            order = teacher.gather(1, under).masked_fill(~under_held, 2**31).argsort(dim=1)
            under, under_held = under.gather(1, order), under_held.gather(1, order)
        return relaxed_ranking_loss(scores.gather(1, under), scores.gather(1, over), under_held, over_held)
