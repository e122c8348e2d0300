"""Students taught by stored states learn what those learn that have the teacher (random weights) at hand."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recsys.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from recsys.data.prepared import PreparedDataset
from recsys.data.splits import SPLITS
from recsys.errors import UserError
from recsys.inference.ranking import WindowPass
from recsys.losses.config import AlignmentConfig, RecommendationLossConfig
from recsys.signals.config import SignalsConfig
from recsys.signals.signals import SignalsMeta
from recsys.signals.states import DTYPES, StatesMeta, StoredStates, part_uri
from recsys.signals.writer import ShardPlan, SignalsWriter
from recsys.students.config import SLMRecConfig
from recsys.students.slmrec import SLMRecObjective, build_slmrec
from recsys.teachers.config import E4SRecConfig
from recsys.teachers.e4srec import E4SRec
from recsys.training.config import TrainingConfig

LAYERS, WIDTH = [2, 4], 16


@pytest.fixture
def dataset(random_dataset: Callable[..., PreparedDataset]) -> PreparedDataset:
    """Some histories are longer than one window, some than two."""
    return random_dataset(longest=40, max_history=12)


@pytest.fixture
def deep(dataset: PreparedDataset, tmp_path: Path) -> Checkpoint:
    torch.manual_seed(3)
    config = E4SRecConfig(kind="e4srec", width=WIDTH, heads=2, layers=4, dropout=0.0)
    save_checkpoint(str(tmp_path / "teacher"), E4SRec.build(config, torch.randn(61, 12)), dataset)
    return load_checkpoint(tmp_path / "teacher")


def store(
    dataset: PreparedDataset, deep: Checkpoint, uri: Path, dtype: str = "fp32", keep: Callable[[Any], Any] = lambda x: x
) -> str:
    """A pass of the teacher over its rows, in shards of 50."""
    plan = ShardPlan.of(dataset, SPLITS, 50)
    writer = SignalsWriter(str(uri), key="k", k=3)
    reader = WindowPass(load_checkpoint(uri.parent / "teacher").model, SignalsConfig(k=3, dtype="fp32"), "cpu")
    for number in range(len(plan)):
        ranked = reader.rank(dataset, plan.shard(number))
        rows = keep(ranked.rows[np.isin(ranked.rows, dataset.rows("train"))])
        states = reader.states(dataset, rows, LAYERS, DTYPES[dtype])
        columns = ranked.rows, ranked.items, ranked.scores, ranked.target_distance
        writer.write_shard(number, *columns, seconds=0.1, states=(rows, states))
    meta = StatesMeta(layers=LAYERS, width=WIDTH, dtype=dtype)
    said = SignalsMeta(
        teacher="e4srec", checkpoint_hash=deep.hash, fingerprint=dataset.fingerprint, k=3, states=vars(meta)
    )
    writer.finalise(plan, said, torch.zeros(61, 12), None)
    return str(uri)


def objective(
    dataset: PreparedDataset,
    deep: Checkpoint,
    stored: StoredStates | None,
    rows: str = "every-position",
    **options: Any,
) -> SLMRecObjective:
    alignment = AlignmentConfig(blocks=2, logits=0.5, stored=stored is not None, **options)
    config = SLMRecConfig(kind="slmrec", layers=2, start="fresh", width=8, heads=2, rows=rows)
    return build_slmrec(
        config, dataset, deep, loss=RecommendationLossConfig(), alignment=alignment, stored=stored
    ).eval()


def test_stored_states_have_windows_of_their_own(dataset: PreparedDataset, deep: Checkpoint, tmp_path: Path) -> None:
    stored = StoredStates.load(store(dataset, deep, tmp_path / "signals"), dataset)
    with pytest.raises(UserError, match=r"training\.histories is exact, but states .* leave it out"):
        objective(dataset, deep, stored).batches(dataset, TrainingConfig(histories="exact"), rank=0, world=1)
    objective(dataset, deep, None).batches(dataset, TrainingConfig(histories="exact"), rank=0, world=1)


@pytest.mark.parametrize("rows", ["every-position", "one-a-user"])
def test_stored_states_give_the_same_loss(
    dataset: PreparedDataset, deep: Checkpoint, tmp_path: Path, rows: str
) -> None:
    stored = StoredStates.load(store(dataset, deep, tmp_path / "signals"), dataset)
    ours, theirs = (objective(dataset, deep, states, rows) for states in (stored, None))
    learned = []
    for batch, _ in ours.batches(dataset, TrainingConfig(batch_size=5), rank=0, world=1).epoch(0):
        learned += batch["rows"][batch["targets"] > 0].tolist()
        (loss, parts), (expected, expected_parts) = ours(batch), theirs(batch)
        torch.testing.assert_close(loss, expected, atol=1e-3, rtol=1e-5)
        assert parts.keys() == expected_parts.keys() and "logit_alignment_loss" in parts
        for name, value in expected_parts.items():
            torch.testing.assert_close(parts[name], value, atol=1e-3, rtol=1e-5, msg=name)
        for each in (loss, expected):
            each.backward()
    train_rows = dataset.rows("train")
    users = dataset.users_of(train_rows)
    last = [int(train_rows[users == user].max()) for user in np.unique(users)]
    assert sorted(learned) == (train_rows.tolist() if rows == "every-position" else last)
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, atol=1e-3, rtol=1e-4)
    assert ours._frozen[0].depth == 1, "where the states are stored the layers are not kept in memory"


def test_bf16_takes_half_and_rounds(dataset: PreparedDataset, deep: Checkpoint, tmp_path: Path) -> None:
    whole = StoredStates.load(store(dataset, deep, tmp_path / "whole"), dataset)
    half = StoredStates.load(store(dataset, deep, tmp_path / "half", "bf16"), dataset)
    count = len(dataset.rows("train"))
    assert half.meta.bytes(count) == whole.meta.bytes(count) / 2 == count * 2 * WIDTH * 2
    rows = torch.from_numpy(dataset.rows("train"))
    for one, other in zip(half.at(rows, LAYERS)[1], whole.at(rows, LAYERS)[1], strict=True):
        assert one.dtype == torch.float32 and not torch.equal(one, other)
        torch.testing.assert_close(one, other, atol=0.02, rtol=0.01)


def test_states_are_those_of_the_layers_asked_for(dataset: PreparedDataset, deep: Checkpoint, tmp_path: Path) -> None:
    stored = StoredStates.load(store(dataset, deep, tmp_path / "signals"), dataset)
    rows = torch.from_numpy(dataset.rows("train"))
    early, late = stored.at(rows, LAYERS)[1]
    assert not torch.equal(early, late)
    assert torch.equal(stored.at(rows, LAYERS[1:])[1][0], late)


def test_rows_without_states_teach_nothing(dataset: PreparedDataset, deep: Checkpoint, tmp_path: Path) -> None:
    part = StoredStates.load(store(dataset, deep, tmp_path / "signals", keep=lambda rows: rows[::2]), dataset)
    taught = objective(dataset, deep, part)
    batch, _ = next(iter(taught.batches(dataset, TrainingConfig(batch_size=12), rank=0, world=1).epoch(0)))
    have = part.at(batch["rows"].clamp_min(0).flatten(), LAYERS)[0].reshape(batch["rows"].shape)
    _, parts = taught(batch)
    there = {**batch, "targets": torch.where(have, batch["targets"], 0)}
    assert 0 < int((there["targets"] > 0).sum()) < int((batch["targets"] > 0).sum())
    _, expected = objective(dataset, deep, None)(there)
    for name in ("cosine_alignment_loss", "norm_alignment_loss", "logit_alignment_loss"):
        torch.testing.assert_close(parts[name], expected[name], atol=1e-3, rtol=1e-5)


def test_a_shard_whose_states_are_gone_is_made_again(
    dataset: PreparedDataset, deep: Checkpoint, tmp_path: Path
) -> None:
    uri = store(dataset, deep, tmp_path / "signals")
    writer, plan = SignalsWriter(uri, key="k", k=3), ShardPlan.of(dataset, SPLITS, 50)
    Path(uri).rename(writer.work)
    assert writer.missing(plan) == []
    Path(part_uri(writer.work, 1)).unlink()
    assert writer.missing(plan) == [1]


def test_states_that_do_not_fit_are_one_line(
    dataset: PreparedDataset, deep: Checkpoint, tmp_path: Path, random_dataset: Callable[..., PreparedDataset]
) -> None:
    uri = store(dataset, deep, tmp_path / "signals")
    stored = StoredStates.load(uri, dataset)
    with pytest.raises(
        UserError, match=r"of teacher revision .* but the teacher is 00000000.* run infer_teacher again"
    ):
        stored.check("0" * 64, LAYERS, dataset.rows("train"))
    with pytest.raises(UserError, match=r"after layers 2, 4, but 4 blocks need those after 1, 2, 3, 4; .*blocks=4"):
        stored.check(deep.hash, [1, 2, 3, 4], dataset.rows("train"))
    torch.manual_seed(4)
    config = E4SRecConfig(kind="e4srec", width=WIDTH, heads=2, layers=4, dropout=0.0)
    save_checkpoint(str(tmp_path / "other"), E4SRec.build(config, torch.randn(61, 12)), dataset)
    with pytest.raises(UserError, match="of teacher revision"):
        objective(dataset, load_checkpoint(tmp_path / "other"), stored)
    with pytest.raises(UserError, match="no training row has stored states"):
        stored.check(deep.hash, LAYERS, dataset.rows("test"))
    with pytest.raises(UserError, match=r"stored states in .* are of dataset .* run infer_teacher on this dataset"):
        StoredStates.load(uri, random_dataset(seed=9))
    part = Path(part_uri(uri, 0))
    part.write_bytes(part.read_bytes()[:-8])
    with pytest.raises(UserError, match=r"damaged|not in the expected form"):
        StoredStates.load(uri, dataset)
    with pytest.raises(ValueError, match="stored reads a frozen teacher's states"):
        AlignmentConfig(stored=True, online=True)
