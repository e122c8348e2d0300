"""SLMRec: a language-model recommender of few layers, taught block by block by a deeper one.

After Xu et al., "SLMRec: Distilling Large Language Models into Small for Sequential Recommendation" (ICLR 2025, arXiv
2405.17890). The teacher is trained first and frozen (offline) or trained on (online). Its states are computed anew in
every step, for the very window that is learned from, or read from its signals (`recsys.signals.states`).

Legend: B batch, L history, P positions with a target, N items, D width of the item vectors, H of the decoder.
"""

from contextlib import nullcontext

import numpy as np
import torch
from torch import Tensor, nn

from recsys.checkpoint import Checkpoint
from recsys.data.prepared import PreparedDataset
from recsys.decoders.decoder import choose_layers
from recsys.decoders.lora import add_adapters
from recsys.errors import UserError
from recsys.inference.ranking import window_starts
from recsys.losses.alignment import (
    block_ends,
    check_blocks,
    cosine_alignment,
    logit_alignment,
    multi_supervision,
    norm_alignment,
)
from recsys.losses.config import AlignmentConfig, RecommendationLossConfig
from recsys.losses.recommendation import softmax_loss
from recsys.losses.scores import CatalogueScores
from recsys.signals.states import StoredStates
from recsys.students.config import SLMRecConfig
from recsys.teachers.layered import LayeredTeacher
from recsys.training.batches import Batch, histories_of
from recsys.training.objective import NextItemObjective, RankingTeacher


def cut_student(config: SLMRecConfig, teacher: LayeredTeacher) -> LayeredTeacher:
    """The student before training.

    Raises:
        UserError: the teacher has no such layers, or its kind cannot begin as the configuration asks.
    """
    layers: int | list[int]
    if config.every is not None:
        if teacher.depth % config.every:
            raise UserError(
                f"model.every is {config.every}, which does not divide the teacher's {teacher.depth} layers"
            )
        layers = list(range(config.every, teacher.depth + 1, config.every))
    else:
        layers = list(config.keep) if config.keep is not None else config.layers or 0
    layers = choose_layers(teacher.depth, layers)
    student = (
        teacher.cut(layers)
        if config.start == "teacher"
        else teacher.fresh(layers, width=config.width, heads=config.heads)
    )
    if config.lora is not None:
        add_adapters(student.decoder, config.lora)
    return student.train()


class SLMRecObjective(NextItemObjective):
    """L_ce + λ1 (1 − D_cos) + λ2 D_norm + λ3 L_ms, at every position with a target.

    Adapter W_a of block k is a linear layer on the block's normalised state (at first the identity) before the
    student's own read-out. Where the widths differ, a linear layer a block brings the student's states to the
    teacher's width before they are compared.
    """

    model: LayeredTeacher

    def __init__(
        self,
        model: LayeredTeacher,
        loss: RecommendationLossConfig,
        dataset: PreparedDataset,
        *,
        rows: str = "every-position",
        alignment: AlignmentConfig | None = None,
        teacher: LayeredTeacher | None = None,
        rankings: RankingTeacher | None = None,
        stored: StoredStates | None = None,
    ) -> None:
        """
        Args:
            teacher: needed where `alignment.teaches`.
            stored: its states, needed where `alignment.stored`.

        Raises:
            UserError: the blocks do not divide the layers.
        """
        super().__init__(model, loss, dataset, rankings)
        self.alignment, self.stored = alignment, stored
        self.one_a_user = rows == "one-a-user"
        self._frozen: tuple[LayeredTeacher, ...] = ()  # a tuple keeps it out of parameters, state and training mode
        self.deep: LayeredTeacher | None = None
        self.adapters = nn.ModuleList()
        self.projections = nn.ModuleList()
        if alignment is None:
            return
        deepest = teacher.depth if teacher and alignment.teaches else model.depth
        check_blocks(model.depth, deepest, alignment.blocks)
        if alignment.supervision:
            self.adapters.extend(_identity(model.width) for _ in range(alignment.blocks - 1))
        if alignment.teaches:
            assert teacher is not None, "alignment needs a teacher"
            self.deep_ends = block_ends(teacher.depth, alignment.blocks)
            if alignment.online:
                self.deep = teacher.train()
            else:
                # Where its states are stored, its layers are not needed.
                self._frozen = ((teacher.cut(1) if stored else teacher).requires_grad_(False).eval(),)
            if teacher.width != model.width and (alignment.cosine or alignment.norm):
                self.projections.extend(nn.Linear(model.width, teacher.width) for _ in range(alignment.blocks))

    def window_starts(self, dataset: PreparedDataset) -> np.ndarray | None:
        """Where the teacher's states are stored, those of the windows that its pass has read."""
        return window_starts(dataset, dataset.rows("train")) if self.stored is not None else None

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        if self.alignment is None:
            return super().forward(batch)
        config, chosen = self.alignment, batch["targets"] > 0
        targets = batch["targets"][chosen]
        vectors_ND = self.model.item_vectors()
        ends = block_ends(self.model.depth, config.blocks)
        found = self.model.states(histories_of(batch), ends, vectors_ND)
        states = [found[end][chosen] for end in ends]  # B × [P, H]
        hidden_PD = self.model.read_out(states[-1], vectors_ND)
        scores = self._scores(hidden_PD, vectors_ND)
        loss, parts = self.next_item(hidden_PD, vectors_ND, targets, batch["rows"][chosen], scores)
        extra: dict[str, tuple[float, Tensor]] = {}
        if self.adapters:
            early = [
                self._scores(self.model.read_out(adapter(self.model.decoder.norm(state)), vectors_ND), vectors_ND)
                for adapter, state in zip(self.adapters, states[:-1], strict=True)
            ]
            extra["supervision"] = config.supervision, multi_supervision(early, targets, config.form)
        if config.teaches:
            extra |= self._compare_with_teacher(batch, chosen, states, scores)
        for name, (weight, value) in extra.items():
            parts[f"{name}_loss"] = value.detach()
            loss = loss + weight * value
        return loss, parts

    def _compare_with_teacher(
        self, batch: Batch, chosen: Tensor, states: list[Tensor], scores: CatalogueScores
    ) -> dict[str, tuple[float, Tensor]]:
        """Name → weight and value of each loss; what is taken from the teacher has no gradient."""
        assert self.alignment is not None
        config, teacher = self.alignment, self.deep or self._frozen[0].to(chosen.device)
        losses: dict[str, tuple[float, Tensor]] = {}
        if self.stored is not None:
            have, deep_states = self.stored.at(batch["rows"][chosen], self.deep_ends)
            if not have.all():
                states, scores = [state[have] for state in states], CatalogueScores(scores.logits_PN[have])
        with nullcontext() if self.deep else torch.no_grad():
            vectors = teacher.item_vectors()
            if self.stored is None:
                found = teacher.states(histories_of(batch), self.deep_ends, vectors)
                deep_states = [found[end][chosen] for end in self.deep_ends]
            if config.logits or self.deep:
                expected = self._scores(teacher.read_out(deep_states[-1], vectors), vectors)
        if self.deep:
            losses["teacher"] = 1.0, softmax_loss(expected, batch["targets"][chosen])
            expected = CatalogueScores(expected.logits_PN.detach())
        theirs, ours = [state.detach().float() for state in deep_states], states
        if self.projections:
            ours = [project(state) for project, state in zip(self.projections, states, strict=True)]
        ours = [state.float() for state in ours]
        if config.cosine:
            losses["cosine_alignment"] = config.cosine, cosine_alignment(ours, theirs, config.form)
        if config.norm:
            losses["norm_alignment"] = config.norm, norm_alignment(ours, theirs, config.form)
        if config.logits:
            losses["logit_alignment"] = config.logits, logit_alignment(scores, expected)
        return losses

    @staticmethod
    def _scores(hidden_PD: Tensor, vectors_ND: Tensor) -> CatalogueScores:
        return CatalogueScores((hidden_PD @ vectors_ND[1:].T).float())


def _identity(width: int) -> nn.Linear:
    layer = nn.Linear(width, width)
    nn.init.eye_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def build_slmrec(
    config: SLMRecConfig,
    dataset: PreparedDataset,
    teacher: Checkpoint,
    *,
    loss: RecommendationLossConfig,
    alignment: AlignmentConfig | None = None,
    rankings: RankingTeacher | None = None,
    stored: StoredStates | None = None,
    seed: int = 0,
) -> SLMRecObjective:
    """The objective of a student cut from a teacher's checkpoint.

    Args:
        stored: the teacher's states, needed where `alignment.stored`.

    Raises:
        UserError: the teacher is of another dataset or kind, configuration and teacher do not fit each other, or the
            stored states are not this teacher's.
    """
    teacher.check_dataset(dataset, "the teacher of this student", "train the teacher on this dataset")
    if not isinstance(teacher.model, LayeredTeacher):
        raise UserError(
            f"a student of kind slmrec is cut from a language-model recommender (e4srec or hllm), but its teacher is "
            f"of kind {teacher.model.kind}"
        )
    torch.manual_seed(seed)
    student, deep = cut_student(config, teacher.model), teacher.model
    if alignment is not None and alignment.online:
        lora = deep.lora
        deep = deep.fresh(deep.depth) if config.start == "fresh" else deep
        if lora is not None:
            deep.adapt(lora)
    objective = SLMRecObjective(
        student,
        loss,
        dataset,
        rows=config.rows,
        alignment=alignment,
        teacher=deep,
        rankings=rankings,
        stored=stored,
    )
    if stored is not None:
        stored.check(teacher.hash, objective.deep_ends, dataset.rows("train"))
    return objective
