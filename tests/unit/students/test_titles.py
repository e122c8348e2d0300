"""The projector as it was trained and as a checkpoint keeps it: the same numbers."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from recsys.decoders.config import ItemEncoderConfig
from recsys.decoders.item_encoder import TextEmbeddings
from recsys.errors import UserError
from recsys.rules.model import centre
from recsys.students.items import PROJECTOR, DistilledItemTable
from recsys.students.titles import TitleProjector, TitleSide
from recsys.teachers.config import HLLMConfig
from recsys.teachers.hllm import HLLM

N, W, D = 30, 12, 8


@pytest.fixture
def text() -> TextEmbeddings:
    torch.manual_seed(0)
    vectors = functional.normalize(torch.randn(N + 1, W) + 1, dim=1)
    vectors[0] = 0
    return TextEmbeddings(vectors, torch.zeros(N + 1, dtype=torch.bool))


def keep(table: DistilledItemTable, side: TitleSide, folder: Path) -> TitleProjector:
    """As a checkpoint keeps it."""
    weights = table.projector.state_dict()
    TitleProjector.of(side, weights, table.mean, table.scale, table.mix).save(folder)
    kept = TitleProjector.load(folder)
    assert kept is not None
    return kept


@pytest.mark.parametrize("hidden", [0, 5])
@pytest.mark.parametrize("mlp", [0, 20])
def test_titles_take_the_way_of_a_teacher_and_its_student(
    text: TextEmbeddings, hidden: int, mlp: int, tmp_path: Path
) -> None:
    config = HLLMConfig(width=16, heads=2, hidden=mlp, item_width=W, id_offset=False)
    teacher = HLLM(config, num_items=N).eval()
    teacher.text.copy_(text.standardise())
    for layer in teacher.parameters():
        torch.nn.init.normal_(layer, std=0.3)
    with torch.no_grad():
        table = DistilledItemTable(teacher.item_vectors(), D, hidden=hidden, mix=0.7)
        fit = {name: t for name, t in teacher.state_dict().items() if name.startswith(("project.", "mlp."))}
        mean, scale = text.scale()
        kept = keep(table, TitleSide(ItemEncoderConfig(), mean.float(), scale.float(), fit), tmp_path)
        torch.testing.assert_close(kept.project(text.vectors[1:]), table()[1:], atol=1e-4, rtol=1e-4)


def test_titles_take_the_way_of_the_rules(text: TextEmbeddings, tmp_path: Path) -> None:
    table = DistilledItemTable(centre(text.vectors, text.known), D, hidden=0, mix=1.0)
    kept = keep(table, TitleSide(ItemEncoderConfig(), text.vectors[1:].mean(dim=0), None, {}), tmp_path)
    torch.testing.assert_close(kept.project(text.vectors[1:]), table()[1:].detach(), atol=1e-4, rtol=1e-4)


def test_an_exported_state_brings_the_projector_and_a_served_table_ignores_it(text: TextEmbeddings) -> None:
    from recsys.students.config import SASRecConfig
    from recsys.students.sasrec import SASRec

    student = SASRec(SASRecConfig(width=D), num_items=N)
    student.items = DistilledItemTable(text.vectors, D, hidden=0, mix=1.0)
    state = student.export_state()
    assert {name for name in state if name.startswith("items.")} == {
        "items.weight", f"{PROJECTOR}weight", f"{PROJECTOR}bias"
    }  # fmt: skip
    served = SASRec(student.config, num_items=N)
    served.load_state_dict(state)
    assert not any(name.startswith(PROJECTOR) for name in served.state_dict())
    with pytest.raises(RuntimeError, match="Unexpected"):
        served.load_state_dict({**state, "items.other": torch.zeros(1)})


def test_another_language_model_of_the_name_is_refused(text: TextEmbeddings, tmp_path: Path) -> None:
    table = DistilledItemTable(text.vectors, D, hidden=0, mix=1.0)
    kept = keep(table, TitleSide(ItemEncoderConfig(), text.vectors[0], text.vectors[1], {}), tmp_path)
    other = dataclasses.replace(kept, config=dataclasses.replace(kept.config, model="another"))
    with pytest.raises(UserError, match="'minilm' is not the one that read the titles of the checkpoint"):
        other.read(["A film"])
