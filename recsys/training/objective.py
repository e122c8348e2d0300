"""What a training step minimises: model and losses as one module, so that every engine trains it alike.

Legend: B batch, L history, P positions with a target, N items, D width, K teacher candidates.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from recsys.data.prepared import PreparedDataset
from recsys.distiller import Distiller, Step
from recsys.errors import UserError
from recsys.losses.config import RankingDistillationConfig, RecommendationLossConfig
from recsys.losses.ranking_distillation import (
    code_distillation_loss,
    code_weights,
    confidence_weights,
    likeliest_temperature,
    paper_weights,
    ranking_distillation_loss,
    soft_weights,
)
from recsys.losses.recommendation import RecommendationLoss
from recsys.losses.scores import CatalogueScores
from recsys.model import CausalRecommender, SequentialRecommender
from recsys.signals.lists import TeacherLists
from recsys.signals.signals import TeacherSignals
from recsys.training.batches import Batch, Batches, histories_of
from recsys.training.config import TrainingConfig
from recsys.training.windows import Windows, history_starts


class Objective(nn.Module):
    """What a training step minimises, on which batches, and which rows select the checkpoint.

    `forward(batch)` gives the loss to differentiate and its parts (detached) for the record, as sums over the batch's
    targets: the caller divides by what `Batches` says, so that one process and many give the same mean.
    """

    model: SequentialRecommender
    one_a_user: bool = False  # see `Windows`

    def batches(self, dataset: PreparedDataset, config: TrainingConfig, *, rank: int, world: int) -> Batches:
        """By default windows over the training sequences, every position a target."""
        starts = self.window_starts(dataset)
        if starts is None:
            starts = history_starts(dataset, config.histories)
        elif config.histories != "windows":
            raise UserError(
                f"training.histories is {config.histories}, but states of the teacher are stored for windows of their "
                "own; leave it out, or set alignment.stored=false"
            )
        return Windows(
            dataset,
            max_history=dataset.max_history,
            batch_size=config.batch_size,
            seed=config.seed,
            rank=rank,
            world=world,
            one_a_user=self.one_a_user,
            times=self.model.uses_times,
            starts=starts,
            joined=config.histories != "prefixes",
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


class RankingTeacher(TeacherLists):
    """The teacher's rankings in memory, looked up by row; K = the configured k.

    Args:
        seed: of the exchange, where the configuration has the lists permuted.

    Attributes:
        temperature: T of the confidence, in the unit of the distances; `median` is theirs over the training rows.
    """

    distance: Tensor

    def __init__(
        self, signals: TeacherSignals, dataset: PreparedDataset, config: RankingDistillationConfig, *, seed: int = 0
    ) -> None:
        if config.permuted:
            signals = signals.permute(dataset.rows("train"), seed)
        scores = config.form in ("soft", "code")
        super().__init__(signals, dataset, config.k, name="distillation.ranking", scores=scores)
        self.config = config
        self.temperature, self.median, self._mean = 1.0, 1.0, 1.0
        if config.form in ("paper", "softmax") and config.confidence:
            self._read_distances(signals, dataset, signals.target_distance[self.train_rows])
        self.register_buffer("distance", torch.from_numpy(signals.target_distance), persistent=False)

    def _read_distances(self, signals: TeacherSignals, dataset: PreparedDataset, distances: np.ndarray) -> None:
        """What the confidence is measured by: training rows alone, and for the temperature validation rows."""
        distances = distances[np.isfinite(distances)]
        if not len(distances):
            raise UserError(
                "the teacher signals hold no target distances for training rows; set distillation.ranking.confidence=0"
            )
        # Texts that name the true item have distance 0, and may be most of them.
        self.median = float(np.median(distances)) or float(np.mean(distances)) or 1.0
        chosen = None
        if self.config.temperature is None:
            valid = np.isin(signals.rows, dataset.rows("valid"))
            targets = dataset.targets(signals.rows[valid])
            held = (signals.items[valid, : self.config.k] == targets[:, None]).any(axis=1)
            chosen = likeliest_temperature(signals.target_distance[valid], held)
        self.temperature = chosen or (self.config.temperature or 1.0) * self.median
        weights = confidence_weights(torch.from_numpy(distances).double(), self.temperature)
        self._mean = max(float(weights.mean()), torch.finfo(torch.float32).tiny)

    def describe(self) -> dict[str, float]:
        """What was found in the signals, for the record; the temperature in medians, as it is configured."""
        if self.config.form in ("soft", "code"):
            return {"coverage": self.coverage}
        return {"coverage": self.coverage, "temperature": self.temperature / self.median}

    def forward(
        self,
        scores: CatalogueScores,
        rows: Tensor,
        *,
        negatives: Tensor | None = None,
        robust: Callable[[CatalogueScores, Tensor], Tensor | None] | None = None,
    ) -> Tensor:
        """The distillation loss, summed over the positions that have signals and divided by `coverage`: over the
        number of all positions it is, on average, the mean over those that have signals. The others count nothing.

        Args:
            negatives: [P], needed where form is `code`; robust: `RecommendationLoss.robust_terms`.
        """
        if self.config.form != "code":
            teacher_PK, weights = self.lists(rows, scores)
            return ranking_distillation_loss(scores, teacher_PK, weights, softmax=self.config.of_softmax)
        assert negatives is not None
        teacher_PK, index = self.find(rows)
        weights = code_weights(teacher_PK, -self._merit(index), scores.logits_PN, self.config)
        terms = robust(scores, teacher_PK.clamp_min(1)) if robust else None
        return code_distillation_loss(scores, teacher_PK, weights, negatives, terms) / self.coverage

    def lists(self, rows: Tensor, scores: CatalogueScores | None = None) -> tuple[Tensor, Tensor]:
        """The candidates of each row, zeros where it has no signals, and their weights divided by `coverage`: [P, K].

        Args:
            scores: the student's, where the weights depend on them (`RankingDistillationConfig.needs_student`).
        """
        teacher_PK, index = self.find(rows)
        if self.config.form == "soft":
            weights = soft_weights(self._merit(index), self.config.temperature or 1.0)
        else:
            confidence = confidence_weights(self.distance[index], self.temperature) / self._mean
            weights = paper_weights(teacher_PK, confidence, None if scores is None else scores.logits_PN, self.config)
        return teacher_PK, weights * (teacher_PK > 0) / self.coverage

    def _merit(self, index: Tensor) -> Tensor:
        """[P, K]: the scores, the best 0."""
        merit_PK = self.merit(index)
        return merit_PK - merit_PK.amax(dim=1, keepdim=True)


class NextItemObjective(Objective):
    """Recommendation loss plus λ_d times ranking distillation (DLLM2Rec eq. 11), as a sum over positions, plus another
    distiller's loss where there is one.

    Over the number of positions, the first is a mean over all of them, the others over those with teacher signals.
    """

    model: CausalRecommender

    def __init__(
        self,
        model: CausalRecommender,
        loss: RecommendationLossConfig,
        dataset: PreparedDataset,
        teacher: RankingTeacher | None = None,
        distiller: Distiller | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.loss = RecommendationLoss(loss, torch.from_numpy(dataset.catalogue.train_counts))
        self.teacher = teacher
        self.distiller = distiller

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss to differentiate, and its parts (detached sums) for the record."""
        vectors_ND = self.model.item_vectors()
        hidden_BLD = self.model.hidden(histories_of(batch), vectors_ND)
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
        if self.distiller is None:
            return self._dllm2rec(hidden_PD, vectors_ND, targets, rows, scores)
        step = Step(hidden_PD, vectors_ND, targets, rows, scores)
        known = step.scores if self.distiller.needs_scores else scores
        loss, parts = self._dllm2rec(hidden_PD, vectors_ND, targets, rows, known)
        distilled = self.distiller(step)
        parts[f"{self.distiller.config.kind}_loss"] = distilled.detach()
        return loss + self.distiller.config.weight * distilled, parts

    def _dllm2rec(
        self, hidden_PD: Tensor, vectors_ND: Tensor, targets: Tensor, rows: Tensor, scores: CatalogueScores | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        if self.teacher is not None and scores is None and self._in_one(hidden_PD):
            return self._cross_entropy(self.teacher, hidden_PD, vectors_ND, targets, rows)
        if scores is None and (self.loss.needs_scores or self.teacher is not None):
            scores = CatalogueScores.of(hidden_PD, vectors_ND)
        negatives = None
        if self.teacher is not None and self.teacher.config.form == "code":
            negatives = self.loss.negatives(targets, len(vectors_ND) - 1)  # shared with the loss, where it has some
        loss = self.loss(hidden_PD, vectors_ND, targets, scores, negatives)
        parts = {"recommendation_loss": loss.detach()}
        if self.teacher is not None:
            assert scores is not None
            shared = None if negatives is None else negatives[:, 0]
            distillation = self.teacher(scores, rows, negatives=shared, robust=self.loss.robust_terms)
            parts["ranking_distillation_loss"] = distillation.detach()
            loss = loss + self.teacher.config.weight * distillation
        return loss, parts

    def _in_one(self, hidden_PD: Tensor) -> bool:
        """Whether both losses are one cross-entropy, of which a processor need not hold the scores."""
        assert self.teacher is not None
        asked = self.teacher.config
        softmax = self.loss.config.kind == "softmax" and asked.of_softmax and not asked.needs_student
        return softmax and bool(asked.weight) and hidden_PD.device.type == "cpu"

    def _cross_entropy(
        self, teacher: RankingTeacher, hidden_PD: Tensor, vectors_ND: Tensor, targets: Tensor, rows: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        weight = teacher.config.weight
        teacher_PK, weights = teacher.lists(rows)
        loss, recommendation = self.loss.cross_entropy(hidden_PD, vectors_ND, targets, teacher_PK, weight * weights)
        distillation = (loss.detach() - recommendation) / weight
        return loss, {"recommendation_loss": recommendation, "ranking_distillation_loss": distillation}
