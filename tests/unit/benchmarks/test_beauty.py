import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch.nn import functional

from recsys.data.prepared import PreparedDataset
from recsys.errors import UserError
from recsys.histories import Histories
from recsys.losses.config import RecommendationLossConfig
from recsys.students.build import build_student
from recsys.students.config import SASRecConfig

RECTOOLS = os.environ.get("RECSYS_RECTOOLS")


@pytest.fixture
def beauty(monkeypatch: pytest.MonkeyPatch, project_root: Path) -> ModuleType:
    monkeypatch.syspath_prepend(str(project_root / "benchmarks"))
    import beauty

    return beauty


@pytest.mark.parametrize("longest", [1, 3, 50])
def test_every_training_target_is_learned_once(
    beauty: ModuleType, random_dataset: Callable[..., PreparedDataset], longest: int
) -> None:
    dataset = random_dataset()
    rows = dataset.rows("train")
    wanted = [
        (dataset.user_ids[user], int(dataset.items[row]))
        for user, row in zip(dataset.users_of(rows), rows, strict=True)
    ]
    found = []
    for user, sequence in beauty.read_sequences(dataset):
        parts = beauty.cut(sequence, longest)
        assert all(1 <= len(part) - 1 <= longest for part in parts)
        found += [(user, item) for part in reversed(parts) for item in part[1:]]
    assert found == wanted


def test_the_plain_loop_learns_what_a_loop_over_positions_learns(
    beauty: ModuleType, random_dataset: Callable[..., PreparedDataset]
) -> None:
    dataset = random_dataset(max_history=50)
    config = SASRecConfig(width=16, dropout=0.0)
    model = build_student(config, dataset, loss=RecommendationLossConfig()).model.eval()
    losses = []
    for _, sequence in beauty.read_sequences(dataset):
        for end in range(1, len(sequence)):
            scores = model.scores(Histories.of(torch.tensor([sequence[:end]])))
            losses.append(functional.cross_entropy(scores, torch.tensor(sequence[end : end + 1])).item())
    objective = build_student(config, dataset, loss=RecommendationLossConfig())
    first, second = beauty.train_plain(objective, dataset, 2)
    assert first["loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-5), "all users are one batch"
    assert second["loss"] < first["loss"] and first["seconds"] > 0


def test_both_loops_lose_alike(
    beauty: ModuleType, random_dataset: Callable[..., PreparedDataset], tmp_path: Path
) -> None:
    dataset = random_dataset(users=300)
    ours = beauty.train_ours(beauty.build(dataset), dataset, 2, tmp_path)
    plain = beauty.train_plain(beauty.build(dataset), dataset, 2)
    assert len(ours) == 2 and all(epoch["seconds"] > 0 < epoch["wall"] for epoch in ours + plain)
    assert [epoch["loss"] for epoch in ours] == pytest.approx([epoch["loss"] for epoch in plain], rel=0.01)


def test_a_python_without_rectools_leaves_its_side_out(
    beauty: ModuleType, random_dataset: Callable[..., PreparedDataset], tmp_path: Path
) -> None:
    if importlib.util.find_spec("rectools") is None:
        assert beauty.train_rectools(random_dataset(), 1, 9.0, None, str(tmp_path)) is None
    with pytest.raises(UserError, match="--rectools: /nowhere/python cannot be run: No such file"):
        beauty.train_rectools(random_dataset(), 1, 9.0, "/nowhere/python", str(tmp_path))


@pytest.mark.skipif(not RECTOOLS, reason="RECSYS_RECTOOLS names no Python that has RecTools")
@pytest.mark.parametrize("seconds", [60.0, 0.0])
def test_rectools_learns_the_same_targets(
    beauty: ModuleType, random_dataset: Callable[..., PreparedDataset], tmp_path: Path, seconds: float
) -> None:
    dataset = random_dataset(users=300, max_history=40)
    figures = beauty.train_rectools(dataset, 2, seconds, RECTOOLS, str(tmp_path))
    assert figures["wall_seconds_per_epoch"] > 0.5 * figures["seconds_per_epoch"] > 0 and figures[
        "versions"
    ].keys() >= {"rectools", "torch"}
    if seconds:
        assert figures["share"] == 1 and figures["targets"] == len(dataset.rows("train"))
        assert figures["loss"][1] < figures["loss"][0]
    else:
        assert figures["share"] == pytest.approx(1 / 3) and figures["loss"] == []
