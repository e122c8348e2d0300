"""How HLLM learns: InfoNCE over the catalogue, or over items drawn for the step where its item side is trained.

Legend: B batch, L history, N items, U items of a step.
"""

import torch
from torch import Tensor

from recsys.data.prepared import PreparedDataset
from recsys.losses.config import RecommendationLossConfig
from recsys.losses.info_nce import info_nce
from recsys.teachers.hllm import HLLM
from recsys.training.objective import Batch, NextItemObjective, Objective


def hllm_objective(model: HLLM, dataset: PreparedDataset) -> Objective:
    """The loss that belongs to a teacher."""
    if model.titles is None:
        return NextItemObjective(model, RecommendationLossConfig(kind="softmax"), dataset)
    return TrainedTitles(model)


class TrainedTitles(Objective):
    """InfoNCE of a teacher whose item language model is trained: histories, targets and negatives of a step are read in
    the step, as HLLM does.

    A table of older vectors for the rest of the catalogue would be cheaper, but most negatives would then be older than
    every target, and the item language model could lower the loss by moving all titles that it reads alike.

    A process draws its own negatives, so that several processes see more of them; they are not exchanged.
    """

    def __init__(self, model: HLLM) -> None:
        super().__init__()
        self.model: HLLM = model

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        items, targets = batch["items"], batch["targets"]
        number = self.model.num_items
        drawn = torch.randperm(number, device=items.device)[: self.model.config.negatives] + 1
        together = torch.cat([items.new_zeros(1), items.flatten(), targets.flatten(), drawn])
        needed, place = together.unique(return_inverse=True)  # ascending, so that padding stays row 0
        _, items, targets, drawn = place.split([1, items.numel(), targets.numel(), len(drawn)])
        vectors_UD = self.model.vectors_of(needed)
        hidden_BLD = self.model.hidden(items.view_as(batch["items"]), vectors_UD)
        chosen = targets > 0
        hidden_PD = hidden_BLD.flatten(0, 1)[chosen]
        loss = info_nce(hidden_PD, vectors_UD, targets[chosen], drawn, num_items=number)
        return loss, {"recommendation_loss": loss.detach()}
