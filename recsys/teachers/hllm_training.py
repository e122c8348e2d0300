"""How HLLM learns: InfoNCE over the catalogue, or over items drawn for the step where its item side is trained.

Legend: B batch, L history, N items, U items of a step.
"""

import torch
from torch import Tensor

from recsys.data.prepared import PreparedDataset
from recsys.decoders.title_encoder import TitleEncoder
from recsys.histories import Histories
from recsys.losses.config import RecommendationLossConfig
from recsys.losses.info_nce import info_nce
from recsys.teachers.config import HLLMConfig
from recsys.teachers.layered import LayeredTeacher
from recsys.training.batches import Batch
from recsys.training.objective import NextItemObjective, Objective


class TitleReader(LayeredTeacher):
    """What is asked here of a model.

    Attributes:
        titles: the item language model while it is trained, otherwise None.
    """

    config: HLLMConfig
    titles: TitleEncoder | None

    def vectors_of(self, items: Tensor) -> Tensor:
        """[U, D] rows of `item_vectors` for items [U], the first of which is padding; the gradient of a trained item
        language model flows through them."""
        raise NotImplementedError


def hllm_objective(model: TitleReader, dataset: PreparedDataset) -> Objective:
    """The loss that belongs to a teacher."""
    config = model.config
    if config.item_training == "frozen" and config.duplicate_similarity is None and not config.time_gaps:
        objective: Objective = NextItemObjective(model, RecommendationLossConfig(kind="softmax"), dataset)
    else:
        objective = InfoNCE(model)
    objective.one_a_user = config.rows == "one-a-user"
    return objective


class InfoNCE(Objective):
    """InfoNCE over the catalogue or, where the item language model is trained, over what a step reads: its histories,
    its targets and the negatives drawn for it, as HLLM does.

    A table of older vectors for the rest of the catalogue would be cheaper, but most negatives would then be older than
    every target, and the item language model could lower the loss by moving all titles that it reads alike.

    A process draws its own negatives, so that several processes see more of them; they are not exchanged.
    """

    def __init__(self, model: TitleReader) -> None:
        super().__init__()
        self.model: TitleReader = model

    def tokens(self, batch: Batch) -> int:
        """Items of histories, and the tokens of titles that were read for the step."""
        return super().tokens(batch) + (self.model.titles.tokens_read() if self.model.titles is not None else 0)

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        items, targets, number = batch["items"], batch["targets"], self.model.num_items
        if self.model.titles is None:
            vectors_UD = self.model.item_vectors()
            drawn = torch.arange(1, number + 1, device=items.device)
        else:
            drawn = torch.randperm(number, device=items.device)[: self.model.config.negatives] + 1
            needed, (items, targets, drawn) = _number(items, targets, drawn)
            vectors_UD = self.model.vectors_of(needed)
        chosen = targets > 0
        loss = info_nce(
            self.model.hidden(Histories.of(items, batch.get("times")), vectors_UD)[chosen],
            vectors_UD,
            targets[chosen],
            drawn,
            num_items=number,
            duplicate_similarity=self.model.config.duplicate_similarity,
        )
        return loss, {"recommendation_loss": loss.detach()}


def _number(*parts: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The distinct items of several tensors, [U] ascending with padding first, and the tensors as places among them."""
    together = torch.cat([parts[0].new_zeros(1), *(part.flatten() for part in parts)])
    distinct, place = together.unique(return_inverse=True)
    split = place[1:].split([part.numel() for part in parts])
    return distinct, [one.view_as(part) for one, part in zip(split, parts, strict=True)]
