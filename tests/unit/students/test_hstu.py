import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from recsys.checkpoint import save_checkpoint
from recsys.data.prepared import Catalogue, PreparedDataset
from recsys.histories import UNKNOWN_TIME, Histories
from recsys.losses.config import RecommendationLossConfig
from recsys.serving.recommender import Recommender
from recsys.students.build import build_student
from recsys.students.config import HSTUConfig
from recsys.students.hstu import HSTU, seconds_between
from recsys.training.config import TrainingConfig
from recsys.training.loop import train_local

ITEMS, WIDTH, LENGTH = 30, 8, 6
TIMES = torch.tensor([[0, 0, 5, 100, 10_000, 10_000_000], [7, 7, UNKNOWN_TIME, 9, 10, 10]])


def made(blocks: int = 2, **options: bool) -> HSTU:
    torch.manual_seed(0)
    model = HSTU(HSTUConfig(width=WIDTH, blocks=blocks, heads=2, max_positions=12, **options), num_items=ITEMS).eval()
    with torch.no_grad():
        for block in model.blocks:
            for bias in (block.position_bias, block.time_bias):
                if bias is not None:
                    bias.normal_()
    return model


def shown() -> Histories:
    return Histories.of(torch.randint(1, ITEMS + 1, (2, LENGTH)), TIMES)


def silu(x: float) -> float:
    return x / (1 + math.exp(-x))


def magnitude(later: int, earlier: int) -> int:
    return 0 if UNKNOWN_TIME in (later, earlier) else 1 + int(math.log2(1 + max(later - earlier, 0)))


@torch.no_grad()
@pytest.mark.parametrize("position_bias", [True, False])
@pytest.mark.parametrize("time_bias", [True, False])
def test_it_equals_loops_over_items_and_heads(position_bias: bool, time_bias: bool) -> None:
    model, histories = made(position_bias=position_bias, time_bias=time_bias), shown()
    found = model.hidden(histories)
    for row in range(2):
        x = model.items.weight[histories.items[row]] * WIDTH**0.5
        times = TIMES[row].tolist()
        for block in model.blocks:
            said = F.silu(F.layer_norm(x, (WIDTH,), eps=1e-6) @ block.uvqk.weight.T)
            u, v, q, k = said.split(WIDTH, dim=1)
            mixed = torch.zeros_like(x)
            for i in range(LENGTH):
                for j in range(i + 1):
                    bias = float(block.position_bias[i - j]) if position_bias else 0.0
                    if time_bias and magnitude(times[i], times[j]):
                        bias += float(block.time_bias[magnitude(times[i], times[j])])
                    for head in (slice(0, 4), slice(4, 8)):
                        mixed[i, head] += silu(float(q[i, head] @ k[j, head]) + bias) / 12 * v[j, head]
            x = x + block.out(u * F.layer_norm(mixed, (WIDTH,), eps=1e-6))
        torch.testing.assert_close(found[row], F.layer_norm(x, (WIDTH,), eps=1e-6), rtol=1e-4, atol=1e-5)


def test_neither_later_items_nor_later_times_change_earlier_states() -> None:
    model, histories = made(), shown()
    before = model.hidden(histories)
    items, times = histories.items.clone(), TIMES.clone()
    items[:, 4:] = items[:, 4:] % ITEMS + 1
    times[:, 4:] += 10**6
    for changed in (Histories.of(items, TIMES), Histories.of(histories.items, times)):
        after = model.hidden(changed)
        assert torch.equal(before[:, :4], after[:, :4])
        assert not torch.allclose(before[:, 4], after[:, 4])


def test_without_its_biases_a_block_knows_neither_order_nor_time() -> None:
    model, histories = made(blocks=1, position_bias=False, time_bias=False), shown()
    assert not model.uses_times and made().uses_times
    moved = histories.items[:, [3, 1, 0, 2, 4, 5]]
    torch.testing.assert_close(model.query(histories), model.query(Histories.of(moved)))
    ordered = made(blocks=1, time_bias=False)
    assert not torch.allclose(ordered.query(histories), ordered.query(Histories.of(moved)))


def test_times_that_are_not_known_are_as_none() -> None:
    model, histories = made(), shown()
    none = model.hidden(Histories.of(histories.items))
    torch.testing.assert_close(none, model.hidden(Histories.of(histories.items, torch.full_like(TIMES, UNKNOWN_TIME))))
    assert not torch.allclose(none, model.hidden(histories))


def test_only_what_lies_between_two_times_counts() -> None:
    model, histories = made(), shown()
    later = Histories.of(histories.items[:1], TIMES[:1] + 10**9)
    torch.testing.assert_close(model.hidden(histories)[:1], model.hidden(later))


def test_some_histories_are_learned_from_without_times() -> None:
    model = made().train()
    model.config = HSTUConfig(width=WIDTH, dropout=0)
    for block in model.blocks:
        block.config = HSTUConfig(width=WIDTH, heads=2, dropout=0, max_positions=12)
    items = torch.randint(1, ITEMS + 1, (1, LENGTH)).repeat(1000, 1)
    states = model.hidden(Histories.of(items, TIMES[:1].repeat(1000, 1)))[:, -1]
    untimed = model.hidden(Histories.of(items[:1]))[0, -1]
    assert 60 < int(torch.isclose(states, untimed, atol=1e-5).all(dim=1).sum()) < 140


def test_seconds_between_two_items() -> None:
    assert seconds_between(torch.tensor([[3, 10, UNKNOWN_TIME]])).tolist() == [[[0, 0, -1], [7, 0, -1], [-1, -1, -1]]]


@pytest.fixture
def paced() -> PreparedDataset:
    """Users who go on by one item after a second, and by seven after twelve days."""
    generator = np.random.default_rng(0)
    users, length, items = 100, 15, 20
    late = generator.random((users, length)) < 0.5
    steps = np.where(late[:, :-1], 7, 1)  # what follows an item depends on the gap before it
    first = generator.integers(items, size=(users, 1))
    sequences = np.concatenate([first, steps], axis=1).cumsum(axis=1) % items + 1
    offsets = np.arange(users + 1, dtype=np.int64) * length
    last = offsets[1:] - 1
    return PreparedDataset(
        name="paced",
        source={},
        protocol="leave_one_out",
        max_history=8,
        catalogue=Catalogue(
            item_ids=["", *[f"i{n}" for n in range(1, items + 1)]],
            titles=[""] * (items + 1),
            train_counts=np.bincount(sequences[:, :-2].ravel(), minlength=items + 1),
        ),
        user_ids=[f"u{n}" for n in range(users)],
        offsets=offsets,
        items=sequences.ravel().astype(np.int32),
        timestamps=np.where(late, 10**6, 1).cumsum(axis=1).ravel(),
        split_rows={
            "train": np.setdiff1d(np.arange(users * length), np.concatenate([offsets[:-1], last, last - 1])),
            "valid": last - 1,
            "test": last,
        },
    )


@pytest.mark.parametrize("time_bias", [True, False])
def test_what_only_times_tell_is_learned_and_served(paced: PreparedDataset, tmp_path: Path, time_bias: bool) -> None:
    model = HSTUConfig(width=16, heads=1, blocks=1, max_positions=8, dropout=0, time_bias=time_bias)
    objective = build_student(model, paced, loss=RecommendationLossConfig(), seed=0)
    config = TrainingConfig(epochs=25, batch_size=16, learning_rate=0.01, patience=0, mask_seen=False)
    state = train_local(objective, paced, config, tmp_path / "train").state
    save_checkpoint(str(tmp_path / "model"), objective.model, paced, state=state)
    rows = paced.rows("test")
    seen = [slice(row - 14, row) for row in rows]
    histories = [[f"i{item}" for item in paced.items[own]] for own in seen]
    times = [paced.timestamps[own].tolist() for own in seen]
    answers = Recommender.load(tmp_path / "model").recommend(histories, 1, mask_seen=False, times=times)
    right = np.mean([best == f"i{paced.items[row]}" for (best,), row in zip(answers, rows, strict=True)])
    assert right > 0.7 if time_bias else right < 0.65
