"""Signals of the rules: by the contract, a user's own events left out, and a student learns from them."""

from pathlib import Path

import numpy as np
import pytest
import torch

from recsys.checkpoint import Checkpoint, load_checkpoint
from recsys.errors import UserError
from recsys.histories import Histories
from recsys.losses.config import DistillationConfig, EmbeddingDistillationConfig
from recsys.losses.config import RecommendationLossConfig as Loss
from recsys.rules.config import RULES, RULES_WITH_TITLES, RulesConfig
from recsys.rules.fit import fit_rules
from recsys.rules.signals import spectral_vectors, write_signals
from recsys.signals.config import SignalsConfig
from recsys.signals.signals import TeacherSignals
from recsys.students.build import build_student
from recsys.students.config import SASRecConfig
from recsys.training.windows import Windows
from tests.unit.rules.conftest import naive_scores
from tests.unit.rules.test_model import text_of


def fitted(dataset, folder: Path, name: str = RULES, config: RulesConfig | None = None) -> Checkpoint:
    fit_rules(dataset, config, text=text_of(dataset))[name].save(str(folder / name), dataset)
    return load_checkpoint(folder / name)


@pytest.mark.parametrize("successors", [None, 2])
def test_rankings_leave_out_the_own_user_of_training_rows(random_dataset, tmp_path: Path, successors) -> None:
    dataset = random_dataset(users=8, items=25, longest=10)
    config = RulesConfig(successors=successors)
    checkpoint = fitted(dataset, tmp_path, config=config)
    options = SignalsConfig(k=6, rows_per_shard=9, log_mass=True)
    meta = write_signals(str(tmp_path / "signals"), checkpoint, dataset, options, report=lambda line: None)
    signals = TeacherSignals.load(str(tmp_path / "signals"), dataset)
    assert meta.rows == {split: len(dataset.rows(split)) for split in ("train", "valid", "test")}
    assert signals.meta.teacher == "sequential-rules" and signals.meta.checkpoint_hash == checkpoint.hash
    training = set(dataset.rows("train").tolist())
    floor = checkpoint.model.floor.double().numpy()
    for place, row in enumerate(signals.rows):
        user = int(dataset.users_of(signals.rows[[place]])[0])
        items, lengths = dataset.histories(signals.rows[[place]])
        history = items[0, : lengths[0]].tolist()
        counts = naive_scores(dataset, config, history, without=user if row in training else -1)
        scores = np.log(0.9 * counts / max(counts.sum(), 1e-300) + floor)
        target = scores[dataset.items[row]]
        scores[[0, *dataset.seen(row)]] = -np.inf
        assert signals.scores[place] == pytest.approx(np.sort(scores)[::-1][:6], abs=1e-5)
        assert scores[signals.items[place]] == pytest.approx(signals.scores[place], abs=1e-5)
        whole = np.exp(scores).sum()
        outside = np.log1p(-np.exp(signals.scores[place]).sum() / whole)
        assert signals.log_mass_outside[place] == pytest.approx(outside, abs=1e-4)
        if dataset.items[row] not in dataset.seen(row):
            assert signals.target_distance[place] == pytest.approx(np.log(whole) - target, abs=1e-5)


def test_titles_are_in_the_signals_and_in_the_scores(random_dataset, tmp_path: Path) -> None:
    dataset = random_dataset(users=10, items=60)
    config = RulesConfig(title_weight=2.0)
    checkpoint = fitted(dataset, tmp_path, RULES_WITH_TITLES, config)
    write_signals(str(tmp_path / "signals"), checkpoint, dataset, SignalsConfig(k=4), report=lambda line: None)
    signals = TeacherSignals.load(str(tmp_path / "signals"), dataset)
    torch.testing.assert_close(signals.text_embeddings, checkpoint.model.titles)
    rows = dataset.rows("test")
    shown = Histories.of_rows(dataset, rows)
    served = checkpoint.model.scores(shown)
    place = np.searchsorted(signals.rows, rows)
    given = served.gather(1, torch.from_numpy(signals.items[place].astype(np.int64)))
    torch.testing.assert_close(torch.from_numpy(signals.scores[place]), given, atol=1e-5, rtol=1e-5)


def test_a_student_learns_from_them(random_dataset, tmp_path: Path) -> None:
    dataset = random_dataset(users=10, items=60)
    checkpoint = fitted(dataset, tmp_path, RULES_WITH_TITLES)
    write_signals(str(tmp_path / "signals"), checkpoint, dataset, SignalsConfig(k=10), report=lambda line: None)
    signals = TeacherSignals.load(str(tmp_path / "signals"), dataset)
    for source in ("item_embeddings", "text_embeddings"):
        distillation = DistillationConfig(embedding=EmbeddingDistillationConfig(source=source))
        model = SASRecConfig(width=8, blocks=1, heads=1)
        objective = build_student(model, dataset, loss=Loss(), distillation=distillation, signals=signals)
        batch, _ = next(iter(Windows(dataset, max_history=8, batch_size=4, seed=0).epoch(0)))
        loss, parts = objective(batch)
        loss.backward()
        assert parts["ranking_distillation_loss"] > 0 and torch.isfinite(loss)


def test_what_does_not_fit_is_said(random_dataset, tmp_path: Path) -> None:
    dataset = random_dataset(users=10, items=60)
    checkpoint = fitted(dataset, tmp_path)
    with pytest.raises(UserError, match=r"this set of rules was trained on"):
        write_signals(str(tmp_path / "s"), checkpoint, random_dataset(seed=1), SignalsConfig())
    with pytest.raises(UserError, match=r"lower signals\.k"):
        write_signals(str(tmp_path / "s"), checkpoint, dataset, SignalsConfig(k=60))
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("items", [6, 700])
def test_spectral_vectors_give_the_counts_back(random_dataset, items: int) -> None:
    dataset = random_dataset(users=30, items=items)
    vectors = spectral_vectors(dataset, RulesConfig(), width=8)
    assert vectors.shape == (items + 1, min(8, items)) and not vectors[0].any()
    torch.testing.assert_close(vectors, spectral_vectors(dataset, RulesConfig(), width=8))
    gram = vectors.double().T @ vectors.double()  # eigenvectors are orthogonal
    assert (gram - torch.diag(gram.diagonal())).abs().max() < 1e-4
    assert gram.diagonal().max() == pytest.approx(1, abs=1e-5), "the largest eigenvalue of such a matrix is 1"
