"""What a training step minimises: model and losses as one module, so that every engine trains it alike.

Legend: B batch, L history, P positions with a target, N items, D width, K teacher candidates.
"""

import numpy as np
import torch
from torch import Tensor, nn

from recsys.data.prepared import PreparedDataset
from recsys.errors import UserError
from recsys.losses.config import RankingDistillationConfig, RecommendationLossConfig
from recsys.losses.ranking_distillation import ranking_distillation_loss
from recsys.losses.recommendation import RecommendationLoss
from recsys.losses.scores import CatalogueScores
from recsys.model import SequentialRecommender
from recsys.signals.signals import TeacherSignals

Batch = dict[str, Tensor]
"""items [B, L], targets [B, L] (0: no loss here), rows [B, L] (offset of the target, -1: none), all int64."""


class RankingTeacher(nn.Module):
    """The teacher's rankings in memory, looked up by row; K = the configured k."""

    index: Tensor
    items: Tensor
    distance: Tensor

    def __init__(self, signals: TeacherSignals, dataset: PreparedDataset, config: RankingDistillationConfig) -> None:
        super().__init__()
        if config.k > signals.meta.k:
            raise UserError(
                f"distillation.ranking.k is {config.k}, but the teacher signals hold the top {signals.meta.k}; "
                f"lower it, or run infer_teacher with signals.k={config.k}"
            )
        self.config = config
        train = np.isin(signals.rows, dataset.rows("train"))
        distances = signals.target_distance[train]
        distances = distances[np.isfinite(distances)]
        self.scale = float(np.median(distances)) if len(distances) else 1.0
        if config.confidence and not len(distances):
            raise UserError(
                "the teacher signals hold no target distances for training rows; set distillation.ranking.confidence=0"
            )
        self.register_buffer("index", torch.from_numpy(signals.lookup(len(dataset.items))), persistent=False)
        self.register_buffer("items", torch.from_numpy(signals.items[:, : config.k].copy()), persistent=False)
        self.register_buffer("distance", torch.from_numpy(signals.target_distance), persistent=False)

    def forward(self, scores: CatalogueScores, rows: Tensor) -> Tensor:
        """The distillation loss, summed over the positions that have signals; the others count nothing."""
        index = self.index[rows]
        have = index >= 0
        teacher_PK = self.items[index].long() * have[:, None]
        return ranking_distillation_loss(scores, teacher_PK, self.distance[index], self.scale, self.config)


class Objective(nn.Module):
    """Recommendation loss plus λ_d times ranking distillation (DLLM2Rec eq. 11), as a sum over positions.

    The caller divides by the number of positions of the whole step, so that one process and many give the same mean.
    """

    def __init__(
        self,
        model: SequentialRecommender,
        loss: RecommendationLossConfig,
        dataset: PreparedDataset,
        teacher: RankingTeacher | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.loss = RecommendationLoss(loss, torch.from_numpy(dataset.catalogue.train_counts))
        self.teacher = teacher

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss to differentiate, and its parts (detached sums) for the record."""
        vectors_ND = self.model.item_vectors()
        hidden_BLD = self.model.hidden(batch["items"], vectors_ND)
        chosen = batch["targets"] > 0
        hidden_PD = hidden_BLD[chosen]
        targets = batch["targets"][chosen]
        scores = None
        if self.loss.needs_scores or self.teacher is not None:
            scores = CatalogueScores((hidden_PD @ vectors_ND[1:].T).float())
        loss = self.loss(hidden_PD, vectors_ND, targets, scores)
        parts = {"recommendation_loss": loss.detach()}
        if self.teacher is not None:
            assert scores is not None
            distillation = self.teacher(scores, batch["rows"][chosen])
            parts["ranking_distillation_loss"] = distillation.detach()
            loss = loss + self.teacher.config.weight * distillation
        return loss, parts
