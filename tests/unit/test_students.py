"""Students with random initial weights: what holds before any training."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from recsys.checkpoint import save_checkpoint
from recsys.data.prepared import PreparedDataset
from recsys.histories import Histories
from recsys.model import model_class
from recsys.serving.recommender import Recommender
from recsys.students.config import CaserConfig, GRU4RecConfig, HSTUConfig, SASRecConfig, TableConfig
from recsys.students.gru4rec import GRU4Rec
from recsys.students.items import DistilledItemTable, TableRecommender
from recsys.students.sasrec import SASRec

ITEMS = 30
CONFIGS: dict[str, TableConfig] = {
    "sasrec": SASRecConfig(width=16, max_positions=12),
    "gru4rec": GRU4RecConfig(width=16),
    "caser": CaserConfig(width=16),
    "hstu": HSTUConfig(width=16, max_positions=12),
}


def build(config: TableConfig) -> TableRecommender:
    made = model_class(config.kind)(config, num_items=ITEMS)
    assert isinstance(made, TableRecommender)
    return made.eval()


@pytest.fixture(params=[f"{kind}{form}" for kind in CONFIGS for form in ("", "-cosine")])
def student(request: pytest.FixtureRequest) -> TableRecommender:
    torch.manual_seed(0)
    kind, _, cosine = request.param.partition("-")
    return build(dataclasses.replace(CONFIGS[kind], similarity="cosine" if cosine else "dot"))


def test_later_items_do_not_change_earlier_positions(student: TableRecommender) -> None:
    items = torch.randint(1, ITEMS + 1, (3, 10))
    changed = items.clone()
    changed[:, 6:] = 1
    torch.testing.assert_close(student.hidden(Histories.of(items))[:, :6], student.hidden(Histories.of(changed))[:, :6])
    assert not torch.allclose(student.hidden(Histories.of(items))[:, 7:], student.hidden(Histories.of(changed))[:, 7:])


def test_padding_changes_nothing(student: TableRecommender) -> None:
    items = torch.randint(1, ITEMS + 1, (2, 5))
    padded = torch.nn.functional.pad(items, (0, 7))
    lengths = torch.tensor([5, 5])
    torch.testing.assert_close(student.query(Histories(items, lengths)), student.query(Histories(padded, lengths)))


def test_sasrec_reads_scaled_items_and_their_positions_from_the_oldest() -> None:
    model = SASRec(SASRecConfig(width=16, max_positions=12), num_items=ITEMS).eval()
    for block in model.blocks:  # so that they add nothing
        for layer in (block.out, block.feed_forward[3]):
            torch.nn.init.zeros_(layer.weight)
            torch.nn.init.zeros_(layer.bias)
    items = torch.randint(1, ITEMS + 1, (2, 5))
    read = 4 * model.items.weight[items] + model.positions[:5]
    torch.testing.assert_close(model.hidden(Histories.of(items)), torch.nn.functional.layer_norm(read, (16,)))


def test_gru4rec_has_the_layers_that_are_asked_for() -> None:
    assert GRU4Rec(GRU4RecConfig(width=4, layers=3), num_items=ITEMS).gru.num_layers == 3


def test_a_history_alone_is_read_as_among_longer_ones(student: TableRecommender) -> None:
    items = torch.randint(1, ITEMS + 1, (3, 9))
    lengths = torch.tensor([9, 1, 4])
    items[torch.arange(9) >= lengths[:, None]] = 0
    together = student.query(Histories(items, lengths))
    for row, length in enumerate(lengths.tolist()):
        alone = student.query(Histories.of(items[row : row + 1, :length]))
        torch.testing.assert_close(alone[0], together[row])


def test_given_vectors_are_those_computed(student: TableRecommender) -> None:
    shown = Histories.of(torch.randint(1, ITEMS + 1, (2, 5)))
    torch.testing.assert_close(student.hidden(shown), student.hidden(shown, student.item_vectors()))


@pytest.mark.parametrize("hidden", [0, 8])
def test_folding_the_teacher_embeddings_keeps_every_score(student: TableRecommender, hidden: int) -> None:
    torch.manual_seed(1)
    teacher = torch.randn(ITEMS + 1, 24) * 3 + 5
    student.items = DistilledItemTable(teacher, 16, hidden=hidden, mix=0.7)
    plain = build(student.config)
    state = student.export_state()
    assert not any("teacher" in name for name in state)
    assert not state["items.weight"][0].any(), "padding has no vector"
    plain.load_state_dict(state)
    items, lengths = torch.randint(1, ITEMS + 1, (4, 6)), torch.tensor([6, 3, 1, 5])
    expected = student.query(Histories(items, lengths)) @ student.item_vectors().T
    given = plain.eval().query(Histories(items, lengths)) @ plain.item_vectors().T
    torch.testing.assert_close(given[:, 1:], expected[:, 1:])


@pytest.mark.parametrize("hidden", [0, 512])
def test_teacher_embeddings_are_standardised_scaled_and_frozen(hidden: int) -> None:
    torch.manual_seed(0)
    table = DistilledItemTable(torch.randn(ITEMS + 1, 24) * 3 + 5, 512, hidden=hidden, mix=1.0)
    assert table.teacher[1:].mean().abs() < 1e-4
    assert table.teacher[1:].std(dim=0).sub(24**-0.5).abs().max() < 1e-4
    lengths = table.projector(table.teacher[1:]).norm(dim=1)
    assert 0.5 < lengths.mean() < 2
    torch.testing.assert_close(table()[1:], table.projector(table.teacher[1:]), msg="no offset at first")
    table().sum().backward()
    assert table.teacher.grad is None and table.weight.grad is not None


@pytest.mark.parametrize("temperature", [0.07, 0.5])
@pytest.mark.parametrize("kind", CONFIGS)
def test_cosine_scores_are_served_as_they_were_learned(
    kind: str, temperature: float, random_dataset: Callable[..., PreparedDataset], tmp_path: Path
) -> None:
    """Distilled, folded and loaded by a recommender: the scores are cosines divided by the temperature all the way."""
    torch.manual_seed(0)
    dataset = random_dataset(items=ITEMS)
    model = build(dataclasses.replace(CONFIGS[kind], similarity="cosine", temperature=temperature))
    model.items = DistilledItemTable(torch.randn(ITEMS + 1, 24), 16, hidden=8, mix=1.3)
    with torch.no_grad():
        model.items.weight.normal_()
    plain = build(model.config)
    save_checkpoint(str(tmp_path / "checkpoint"), plain, dataset, state=model.export_state())
    (answer,) = Recommender.load(tmp_path / "checkpoint").rank([["i3", "i7", "i3"]], k=ITEMS, mask_seen=False)
    with torch.no_grad():
        query, table = model.eval().hidden(Histories.of(torch.tensor([[3, 7, 3]])))[0, -1], model.items()
        for item, score in zip(answer.items, answer.scores, strict=True):
            vector = table[int(item[1:])]
            assert score == pytest.approx(float(torch.cosine_similarity(query, vector, dim=0)) / temperature, abs=1e-4)
    assert len(answer.items) == ITEMS and answer.scores == sorted(answer.scores, reverse=True)
    assert max(map(abs, answer.scores)) <= 1 / temperature + 1e-4
    # What scores do not depend on: how long an item's vector is.
    longer = model.export_state()
    longer["items.weight"] *= torch.rand(ITEMS + 1, 1) + 0.5
    plain.load_state_dict(longer)
    torch.testing.assert_close(plain.item_vectors()[1:], model.item_vectors()[1:])
