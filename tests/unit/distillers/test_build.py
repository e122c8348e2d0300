"""A tiny student by each distiller, from its configuration to the weights."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from recsys.config import from_dict, to_dict
from recsys.data.prepared import PreparedDataset
from recsys.errors import UserError
from recsys.histories import Histories
from recsys.kinds import DISTILLERS, DistillerConfig, import_place
from recsys.losses.config import DistillationConfig, RecommendationLossConfig
from recsys.settings import StudentSettings
from recsys.signals.signals import TeacherSignals
from recsys.students.build import build_student
from recsys.students.config import SASRecConfig
from recsys.training.config import TrainingConfig
from recsys.training.loop import TrainingResult, train_local
from recsys.training.objective import NextItemObjective


def train(
    dataset: PreparedDataset, signals: TeacherSignals, distiller: dict[str, Any] | None, folder: Path, epochs: int = 2
) -> tuple[NextItemObjective, TrainingResult]:
    distillation = from_dict(DistillationConfig, {"ranking": None, "embedding": None, "distiller": distiller})
    objective = build_student(
        SASRecConfig(width=8, blocks=1, heads=1, dropout=0.1),
        dataset,
        loss=RecommendationLossConfig(),
        distillation=distillation,
        signals=signals,
        seed=0,
    )
    assert isinstance(objective, NextItemObjective)
    config = TrainingConfig(epochs=epochs, batch_size=4, learning_rate=1e-2, patience=0)
    return objective, train_local(objective, dataset, config, folder)


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("kind", DISTILLERS)
def test_a_student_learns_by_it_and_the_same_seed_gives_the_same_weights(
    kind: str, dataset: PreparedDataset, make_signals: Callable[..., TeacherSignals], tmp_path: Path
) -> None:
    asked = {"kind": kind}
    if "k" in import_place(DISTILLERS[kind]).__dataclass_fields__:
        asked |= {"k": 4} | {"cd": {"items": 2}, "rrd": {"interesting": 2}, "dcd": {"drawn": 2}}.get(kind, {})
    signals = make_signals()
    _, result = train(dataset, signals, asked, tmp_path / "one")
    _, again = train(dataset, signals, asked, tmp_path / "two")
    _, alone = train(dataset, signals, None, tmp_path / "alone")
    _, half = train(dataset, signals, asked, tmp_path / "resumed", epochs=1)
    _, resumed = train(dataset, signals, asked, tmp_path / "resumed-on", epochs=2)
    assert f"{kind}_loss" in result.progress.curve[0]
    assert equal(result.state, again.state), "the same seed"
    assert not equal(result.state, alone.state), "it teaches something"
    assert result.state.keys() == alone.state.keys(), "nothing of it is served"
    assert equal(result.state, resumed.state) and half.progress.epoch == 1


@pytest.mark.parametrize("kind", ["rd", "rrd", "dcd", "unkd", "cd"])
def test_a_student_follows_the_lists(
    kind: str, dataset: PreparedDataset, make_signals: Callable[..., TeacherSignals], tmp_path: Path
) -> None:
    """The lists of all rows are the same four items, which chance ranks anywhere."""
    signals = make_signals(rows=dataset.rows("train"))
    signals.items[:] = [3, 11, 7, 16]
    extra = {"cd": {"items": 2, "bias": 3.0}, "rrd": {"interesting": 3}, "dcd": {"drawn": 3}}.get(kind, {})
    places = []
    for weight in (0.0, 5.0):
        asked = {"kind": kind, "k": 4, "weight": weight, **extra}
        objective, _ = train(dataset, signals, asked, tmp_path / f"{weight}", epochs=8)
        with torch.no_grad():
            scores = objective.eval().model.scores(Histories.of_rows(dataset, dataset.rows("test")))[:, 1:]
        ranks = scores.argsort(dim=1, descending=True).argsort(dim=1)[:, [2, 10, 6, 15]]
        places.append(float(ranks.float().mean()))
    assert places[1] < places[0] - 2, places


@pytest.mark.parametrize("kind", ["hint", "htd"])
def test_item_vectors_come_to_resemble_each_other_as_the_teachers_do(
    kind: str, dataset: PreparedDataset, make_signals: Callable[..., TeacherSignals], tmp_path: Path
) -> None:
    signals = make_signals()
    likeness = []
    for weight in (0.0, 30.0):
        asked = {"kind": kind, "weight": weight} | ({"groups": 2, "topology": 0.9} if kind == "htd" else {})
        objective, _ = train(dataset, signals, asked, tmp_path / f"{weight}", epochs=15)
        with torch.no_grad():
            teacher = signals.item_embeddings[1:] - signals.item_embeddings[1:].mean(dim=0)
            a, b = torch.triu_indices(len(teacher), len(teacher), 1)
            both = (objective.model.item_vectors()[1:], teacher)
            cosines = [torch.cosine_similarity(vectors[a], vectors[b], dim=1).numpy() for vectors in both]
        likeness.append(np.corrcoef(*cosines)[0, 1])
    assert likeness[1] > likeness[0] + 0.2, likeness


def test_it_is_added_to_the_parts_of_dllm2rec(
    dataset: PreparedDataset, make_signals: Callable[..., TeacherSignals]
) -> None:
    signals = make_signals()

    def loss(distillation: dict[str, Any]) -> tuple[float, dict[str, float]]:
        objective = build_student(
            SASRecConfig(width=8, blocks=1, heads=1, dropout=0),
            dataset,
            loss=RecommendationLossConfig(),
            distillation=from_dict(DistillationConfig, {"ranking": {"k": 4, "weight": 0.3}, **distillation}),
            signals=signals,
            seed=0,
        )
        batch, _ = next(objective.batches(dataset, TrainingConfig(batch_size=6), rank=0, world=1).epoch(0))
        value, parts = objective(batch)
        return value.item(), {name: part.item() for name, part in parts.items()}

    plain, parts = loss({"embedding": None})
    both, more = loss({"embedding": None, "distiller": {"kind": "rd", "k": 4, "weight": 0.7}})
    assert more["ranking_distillation_loss"] == pytest.approx(parts["ranking_distillation_loss"], rel=1e-5)
    assert both == pytest.approx(plain + 0.7 * more["rd_loss"], rel=1e-5) and more["rd_loss"] > 0


def test_its_settings_are_read_and_refused_like_any_other() -> None:
    read = from_dict(DistillationConfig, {"distiller": {"kind": "rrd", "position": 3}})
    assert from_dict(DistillationConfig, to_dict(read)) == read and isinstance(read.distiller, DistillerConfig)
    with pytest.raises(UserError, match="kind should be one of hint, htd, rd, cd, rrd, dcd, unkd"):
        from_dict(DistillationConfig, {"distiller": {"kind": "none"}})
    with pytest.raises(UserError, match=r"no such configuration key; did you mean position\?"):
        from_dict(DistillationConfig, {"distiller": {"kind": "rrd", "positions": 3}})
    slmrec = {
        "model": {"kind": "slmrec", "layers": 1},
        "distillation": {"embedding": None, "distiller": {"kind": "rd"}},
    }
    with pytest.raises(UserError, match=r"distillers are for students of kind sasrec or gru4rec"):
        from_dict(StudentSettings, slmrec)


@pytest.mark.parametrize("kind", DISTILLERS)
def test_a_line_names_the_configuration_of_its_kind(kind: str) -> None:
    config = import_place(DISTILLERS[kind])()
    assert config.kind == kind and issubclass(import_place(config.distiller), torch.nn.Module)
