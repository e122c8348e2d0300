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
from recsys.model import CausalRecommender, SequentialRecommender
from recsys.signals.signals import TeacherSignals
from recsys.training.batches import Batch, Batches
from recsys.training.config import TrainingConfig
from recsys.training.windows import Windows


class Objective(nn.Module):
    """What a training step minimises, on which batches, and which rows select the checkpoint.

    `forward(batch)` gives the loss to differentiate and its parts (detached) for the record, as sums over the batch's
    targets: the caller divides by the number of targets of the whole step, so that one process and many give the same
    mean.
    """

    model: SequentialRecommender
    one_a_user: bool = False  # see `Windows`

    def batches(self, dataset: PreparedDataset, config: TrainingConfig, *, rank: int, world: int) -> Batches:
        """By default windows over the training sequences, every position a target."""
        return Windows(
            dataset,
            max_history=dataset.max_history,
            batch_size=config.batch_size,
            seed=config.seed,
            rank=rank,
            world=world,
            one_a_user=self.one_a_user,
            times=self.model.uses_times,
            starts=self.window_starts(dataset),
        )

    def window_starts(self, dataset: PreparedDataset) -> np.ndarray | None:  # noqa: ARG002
        """[S] where the window of each training row begins; None for windows that are cut anew in every epoch."""
        return None

    def rows(self, batch: Batch) -> int:
        """Rows that a batch learns from."""
        return int((batch["targets"] > 0).sum())

    def tokens(self, batch: Batch) -> int:
        """Positions that the model read to learn from a batch, padding not counted; asked for once it has."""
        return int((batch["items"] > 0).sum())

    def validation_rows(self, dataset: PreparedDataset) -> np.ndarray:
        """Rows whose ranking selects the checkpoint: by default all of the validation split."""
        return dataset.rows("valid")


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
        # A view: signals may lie in memory that several processes share.
        self.register_buffer("items", torch.from_numpy(signals.items[:, : config.k]), persistent=False)
        self.register_buffer("distance", torch.from_numpy(signals.target_distance), persistent=False)

    def forward(self, scores: CatalogueScores, rows: Tensor) -> Tensor:
        """The distillation loss, summed over the positions that have signals; the others count nothing."""
        index = self.index[rows]
        have = index >= 0
        teacher_PK = self.items[index].long() * have[:, None]
        return ranking_distillation_loss(scores, teacher_PK, self.distance[index], self.scale, self.config)


class NextItemObjective(Objective):
    """Recommendation loss plus λ_d times ranking distillation (DLLM2Rec eq. 11), as a sum over positions."""

    model: CausalRecommender

    def __init__(
        self,
        model: CausalRecommender,
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
        hidden_BLD = self.model.hidden(batch["items"], vectors_ND, batch.get("times"))
        chosen = batch["targets"] > 0
        return self.next_item(hidden_BLD[chosen], vectors_ND, batch["targets"][chosen], batch["rows"][chosen])

    def next_item(
        self,
        hidden_PD: Tensor,
        vectors_ND: Tensor,
        targets: Tensor,
        rows: Tensor,
        scores: CatalogueScores | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The same from what the model expects at the positions with a target, and from its scores where known."""
        if scores is None and (self.loss.needs_scores or self.teacher is not None):
            scores = CatalogueScores((hidden_PD @ vectors_ND[1:].T).float())
        loss = self.loss(hidden_PD, vectors_ND, targets, scores)
        parts = {"recommendation_loss": loss.detach()}
        if self.teacher is not None:
            assert scores is not None
            distillation = self.teacher(scores, rows)
            parts["ranking_distillation_loss"] = distillation.detach()
            loss = loss + self.teacher.config.weight * distillation
        return loss, parts
