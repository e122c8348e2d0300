"""UnKD, unbiased knowledge distillation (Chen et al., WSDM 2023)."""

from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from recsys.config import Field, configuration
from recsys.data.prepared import PreparedDataset
from recsys.distillers.draws import draw_columns
from recsys.distillers.lists import ListConfig, ListDistiller
from recsys.signals.signals import TeacherSignals


@configuration
class UnKDConfig(ListConfig):
    """
    Attributes:
        groups: of items, of equal popularity in sum.
        pairs: drawn for each row.
        position: μ, how slowly the chance of being drawn falls with the rank within the group.
    """

    distiller: ClassVar[str] = "recsys.distillers.unkd:UnKD"
    kind: Literal["unkd"] = "unkd"
    groups: int = Field(default=4, ge=1)
    pairs: int = Field(default=10, ge=1)
    position: float = Field(default=5.0, gt=0)


class UnKD(ListDistiller):
    """−Σ log σ(y_i − y_j) / n over n pairs of items of the same popularity group, of which the teacher ranks i higher:
    what popularity alone has ranked is not taught.

    A pair begins with a group of those in the teacher's list, all equally likely, in which i is drawn with probability
    ∝ exp(−r/μ) by its rank within the group; j is any item of the group, and the pair counts where the teacher ranks it
    lower, as it does what lies outside its list. The authors draw both by rank from the teacher's order of the whole
    group, and more pairs from unpopular groups.
    """

    config: UnKDConfig
    group: Tensor
    members: Tensor
    starts: Tensor

    def __init__(self, config: UnKDConfig, signals: TeacherSignals, dataset: PreparedDataset) -> None:
        super().__init__(config, signals, dataset)
        group = group_by_popularity(dataset.catalogue.train_counts[1:], config.groups)
        order = np.argsort(group, kind="stable")
        starts = np.searchsorted(group[order], np.arange(config.groups + 1))
        for name, table in (("group", group), ("members", order + 1), ("starts", starts)):
            self.register_buffer(name, torch.from_numpy(table.astype(np.int64)), persistent=False)

    def draw(self, items_QK: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Items i and j of each pair, and whether the teacher ranks i above j: [Q, pairs] each."""
        group_QK = self.group[items_QK - 1]
        same = group_QK[:, :, None] == group_QK[:, None, :]
        rank = same.tril().sum(dim=2)  # within the group
        log_weight = -rank.float() / self.config.position
        of_group = log_weight[:, None, :].masked_fill(~same, -torch.inf).logsumexp(dim=2)
        columns = draw_columns(log_weight - of_group, self.config.pairs)
        higher = items_QK.gather(1, columns)
        group = self.group[higher - 1]
        first, size = self.starts[group], self.starts[group + 1] - self.starts[group]
        place = (torch.rand(size.shape, device=size.device) * size).long().minimum(size - 1)
        lower = self.members[first + place]
        listed = items_QK[:, None, :] == lower[:, :, None]
        above = torch.arange(items_QK.shape[1], device=items_QK.device) <= columns[:, :, None]
        return higher, lower, ~(listed & above).any(dim=2)

    def compare(self, logits_QN: Tensor, items_QK: Tensor, merit_QK: Tensor, targets: Tensor) -> Tensor:  # noqa: ARG002
        higher, lower, held = self.draw(items_QK)
        margin = logits_QN.gather(1, higher - 1) - logits_QN.gather(1, lower - 1)
        return -(F.logsigmoid(margin) * held / held.sum(dim=1, keepdim=True).clamp_min(1)).sum()


def group_by_popularity(counts: np.ndarray, groups: int) -> np.ndarray:
    """The group of each item, 0 for the most popular: [N] from counts [N].

    Items in order of their counts are cut where the middle of one passes another share of the sum; a very popular item
    may leave the next group empty.
    """
    order = np.argsort(-counts, kind="stable")
    weight = counts[order] + 1e-9  # where nothing was counted, groups are of equal size
    middle = np.cumsum(weight) - weight / 2
    group = np.empty(len(counts), dtype=np.int64)
    group[order] = np.minimum(middle / weight.sum() * groups, groups - 1)
    return group
