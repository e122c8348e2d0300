"""A student with its losses, ready to train: alone, or with what it takes from a teacher."""

import torch

from recsys.data.prepared import PreparedDataset
from recsys.distillers.build import build_distiller
from recsys.errors import UserError
from recsys.kinds import StudentConfig
from recsys.losses.config import DistillationConfig, RecommendationLossConfig
from recsys.model import CausalRecommender, model_class
from recsys.signals.signals import TeacherSignals
from recsys.students.items import DistilledItemTable, TableRecommender
from recsys.training.objective import NextItemObjective, Objective, RankingTeacher


def build_student(
    model: StudentConfig,
    dataset: PreparedDataset,
    *,
    loss: RecommendationLossConfig,
    distillation: DistillationConfig | None = None,
    signals: TeacherSignals | None = None,
    seed: int = 0,
) -> Objective:
    """The objective of a student with seeded initial weights.

    Args:
        signals: needed where `distillation` is given.

    Raises:
        UserError: the signals lack what the distillation asks for, or histories are longer than the model's positions.
    """
    torch.manual_seed(seed)
    model.check_history(dataset.max_history)
    student = model_class(model.kind)(model, num_items=dataset.num_items)
    assert isinstance(student, CausalRecommender)
    teacher = distiller = None
    if distillation is not None:
        assert signals is not None, "distillation needs signals"
        if distillation.embedding is not None:
            source = getattr(signals, distillation.embedding.source)
            if source is None:
                raise UserError(
                    "the teacher signals hold no text_embeddings; set distillation.embedding.source=item_embeddings"
                )
            if not isinstance(student, TableRecommender):
                raise UserError(
                    f"a student of kind {model.kind} has no table for a teacher's embeddings; set "
                    "distillation.embedding=null"
                )
            student.items = DistilledItemTable(
                source, student.config.width, hidden=distillation.embedding.hidden, mix=distillation.embedding.mix
            )
        if distillation.ranking is not None:
            teacher = RankingTeacher(signals, dataset, distillation.ranking, seed=seed)
        if distillation.distiller is not None:
            width = student.item_vectors().shape[1]
            distiller = build_distiller(distillation.distiller, signals, dataset, width=width, seed=seed)
    return NextItemObjective(student, loss, dataset, teacher, distiller)
