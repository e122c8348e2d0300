"""Counts against loops, and a user left out against counting again without."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from recsys.evaluation.metrics import gains
from recsys.evaluation.ranking import rank_targets
from recsys.histories import Histories
from recsys.rules import counts as counting
from recsys.rules.config import RulesConfig, RulesTuningConfig
from recsys.rules.counts import Counts, WithoutUser, history_weights, mean_gain
from recsys.rules.tune import tune_counts
from tests.unit.rules.conftest import naive_scores

CONFIGS = [
    RulesConfig(),
    RulesConfig(window=3, decay=1.0, backward=0.0, distance=0.0, source=0.0, target=0.0),
    RulesConfig(window=5, decay=0.4, backward=0.7, distance=1.5, source=0.8, target=0.6),
]


def shown(dataset, row: int) -> list[int]:
    items, lengths = dataset.histories(np.array([row]))
    return items[0, : lengths[0]].tolist()


@pytest.mark.parametrize("config", CONFIGS)
def test_counts_equal_naive_loops(random_dataset, config: RulesConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = random_dataset(items=20, longest=12)
    monkeypatch.setattr(counting, "EVENTS_AT_ONCE", 7)  # users in several parts
    monkeypatch.setattr(counting, "PAIRS_AT_ONCE", 11)  # and pairs
    rows = dataset.rows("test")
    scores = (history_weights(dataset, rows, config.decay) @ Counts.fit(dataset, config).rules()).toarray()
    for place, row in enumerate(rows):
        assert scores[place] == pytest.approx(naive_scores(dataset, config, shown(dataset, row)))


@pytest.mark.parametrize("config", CONFIGS)
def test_a_user_is_left_out_as_if_never_counted(random_dataset, config: RulesConfig) -> None:
    """Repeats within and beyond the history, and a history that is cut, are among the rows."""
    dataset = random_dataset(items=15, longest=14, max_history=4)
    rows = dataset.rows("train")
    scores = WithoutUser(dataset, config).scores(rows)
    for place, row in enumerate(rows):
        user = int(dataset.users_of(np.array([row]))[0])
        expected = naive_scores(dataset, config, shown(dataset, row), without=user)
        assert scores[place] == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_a_user_is_left_out_as_by_fitting_again(random_dataset) -> None:
    dataset = random_dataset(users=8, items=15, longest=14)
    config = RulesConfig()
    for user in range(dataset.num_users):
        rows = dataset.rows("train")
        rows = rows[dataset.users_of(rows) == user]
        if not len(rows):
            continue
        others = dataset.without_training_rows_of(np.arange(dataset.num_users) == user)
        again = history_weights(dataset, rows, config.decay) @ Counts.fit(others, config).rules()
        assert WithoutUser(dataset, config).scores(rows) == pytest.approx(again.toarray(), abs=1e-12)


def test_items_that_only_the_user_has_get_nothing(random_dataset) -> None:
    dataset = random_dataset(users=6, items=400, longest=9)
    rows = dataset.rows("train")
    own = Counts.fit(dataset, RulesConfig())
    once = np.flatnonzero(own.frequency == 1)
    scores = WithoutUser(dataset, RulesConfig()).scores(rows)
    targets = np.isin(dataset.targets(rows), once)
    assert targets.any() and (scores[targets, dataset.targets(rows)[targets]] == 0).all()


def test_the_gain_is_that_of_the_full_ranking(random_dataset) -> None:
    dataset = random_dataset(users=40, items=30, longest=12)
    rows, config = dataset.rows("valid"), RulesConfig()
    rules = Counts.fit(dataset, config).rules()
    weights = history_weights(dataset, rows, config.decay)

    def score(_: Histories) -> torch.Tensor:
        return torch.from_numpy((weights @ rules).toarray())

    ranks = rank_targets(score, dataset, rows, mask_seen=True)
    found = (weights @ rules).toarray()[np.arange(len(rows)), dataset.targets(rows)] > 0
    assert 0 < found.sum() < len(rows)
    assert mean_gain(weights, rules, dataset, rows) == pytest.approx((gains(ranks, 10) * found).mean())


def test_only_the_strongest_rules_are_kept(random_dataset) -> None:
    dataset = random_dataset(items=20, longest=20)
    whole = Counts.fit(dataset, RulesConfig()).rules().toarray()
    cut = Counts.fit(dataset, RulesConfig(successors=3)).rules().toarray()
    for row, kept in zip(whole, cut, strict=True):
        assert np.sort(kept)[-3:] == pytest.approx(np.sort(row)[-3:])
        assert (kept > 0).sum() == min(3, (row > 0).sum())


def test_the_search_finds_direction_and_says_what_it_tried(random_dataset) -> None:
    """In a circle that all walk the same way, what comes before is no answer."""
    walk = np.tile(np.arange(1, 13), 40)[: 40 * 8].astype(np.int32)
    dataset = random_dataset(users=40, items=12, longest=8)
    offsets = np.arange(0, 40 * 8 + 1, 8)
    inner = np.ones(len(walk), dtype=bool)
    inner[np.concatenate([offsets[:-1], offsets[1:] - 1, offsets[1:] - 2])] = False
    dataset = replace(
        dataset,
        offsets=offsets,
        items=walk,
        timestamps=np.arange(len(walk)),
        split_rows={"train": np.flatnonzero(inner), "valid": offsets[1:] - 2, "test": offsets[1:] - 1},
        fingerprint="",
    )
    start = RulesConfig(backward=1.0, decay=1.0, distance=0.0)
    found = tune_counts(dataset, start, RulesTuningConfig(), report=lambda line: None)
    assert found.config.backward < 1
    assert found.best == max(each["valid"] for each in found.tried) > found.tried[0]["valid"]
    assert set(found.tried[0]) == {"backward", "decay", "distance", "source", "target", "valid"}


def test_what_the_search_says_of_a_candidate_is_its_gain_on_validation(random_dataset) -> None:
    dataset = random_dataset(users=40, items=30, longest=12)
    tuning = RulesTuningConfig(
        rounds=2, decay=(0.5,), backward=(0.2, 1.0), distance=(0.0, 0.5, 1.5), source=(0.4,), target=(0.2,)
    )
    found = tune_counts(dataset, RulesConfig(), tuning, report=lambda line: None)
    rows = dataset.rows("valid")
    for each in found.tried:
        config = RulesConfig(**{name: value for name, value in each.items() if name != "valid"})
        weights = history_weights(dataset, rows, config.decay)
        expected = mean_gain(weights, Counts.fit(dataset, config).rules(), dataset, rows)
        assert each["valid"] == pytest.approx(expected)
    assert found.best == max(each["valid"] for each in found.tried)
    assert len({each["distance"] for each in found.tried}) == 3


def test_without_validation_rows_nothing_is_chosen(random_dataset) -> None:
    dataset = random_dataset()
    bare = replace(dataset, split_rows={**dataset.split_rows, "valid": np.zeros(0, dtype=np.int64)}, fingerprint="")
    found = tune_counts(bare, RulesConfig(), RulesTuningConfig())
    assert (found.config, found.best, found.tried) == (RulesConfig(), None, [])
