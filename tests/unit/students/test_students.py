"""Students with random initial weights: what holds before any training."""

import pytest
import torch

from recsys.model import SequentialRecommender
from recsys.students.config import GRU4RecConfig, SASRecConfig
from recsys.students.gru4rec import GRU4Rec
from recsys.students.items import DistilledItemTable
from recsys.students.sasrec import SASRec

ITEMS = 30


@pytest.fixture(params=["sasrec", "gru4rec"])
def student(request: pytest.FixtureRequest) -> SequentialRecommender:
    torch.manual_seed(0)
    if request.param == "sasrec":
        return SASRec(SASRecConfig(width=16, max_positions=12), num_items=ITEMS).eval()
    return GRU4Rec(GRU4RecConfig(width=16), num_items=ITEMS).eval()


def test_later_items_do_not_change_earlier_positions(student: SequentialRecommender) -> None:
    items = torch.randint(1, ITEMS + 1, (3, 10))
    changed = items.clone()
    changed[:, 6:] = 1
    torch.testing.assert_close(student.hidden(items)[:, :6], student.hidden(changed)[:, :6])
    assert not torch.allclose(student.hidden(items)[:, 7:], student.hidden(changed)[:, 7:])


def test_padding_changes_nothing(student: SequentialRecommender) -> None:
    items = torch.randint(1, ITEMS + 1, (2, 5))
    padded = torch.nn.functional.pad(items, (0, 7))
    lengths = torch.tensor([5, 5])
    torch.testing.assert_close(student.query(items, lengths), student.query(padded, lengths))


def test_given_vectors_are_those_computed(student: SequentialRecommender) -> None:
    items = torch.randint(1, ITEMS + 1, (2, 5))
    torch.testing.assert_close(student.hidden(items), student.hidden(items, student.item_vectors()))


@pytest.mark.parametrize("hidden", [0, 8])
def test_folding_the_teacher_embeddings_keeps_every_score(student: SequentialRecommender, hidden: int) -> None:
    torch.manual_seed(1)
    teacher = torch.randn(ITEMS + 1, 24) * 3 + 5
    student.items = DistilledItemTable(teacher, 16, hidden=hidden, mix=0.7)
    plain = type(student)(student.config, num_items=ITEMS)
    state = student.export_state()
    assert not any("teacher" in name or "projector" in name for name in state)
    plain.load_state_dict(state)
    items, lengths = torch.randint(1, ITEMS + 1, (4, 6)), torch.tensor([6, 3, 1, 5])
    expected = student.query(items, lengths) @ student.item_vectors().T
    given = plain.eval().query(items, lengths) @ plain.item_vectors().T
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
