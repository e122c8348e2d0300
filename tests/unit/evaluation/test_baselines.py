import dataclasses
from collections import Counter, defaultdict

import numpy as np
import pytest
import torch

from recsys.data.prepared import PreparedDataset
from recsys.evaluation.baselines import CoOccurrence, RecentPopularity, fit_baseline
from recsys.evaluation.config import CoOccurrenceConfig, EvaluationConfig
from recsys.evaluation.ranking import rank_targets
from recsys.histories import Histories

DAY = 86_400


def test_recent_popularity_by_hand(make) -> None:
    # Training interactions: item 1 on days 0 and 1, item 2 on day 10, item 3 on days 0, 4 and 10, item 4 never.
    late = [99 * DAY, 99 * DAY]
    dataset = make(
        [[1, 3, 4, 4], [1, 2, 4, 4], [3, 3, 4, 4]],
        timestamps=[[0, 0, *late], [DAY, 10 * DAY, *late], [4 * DAY, 10 * DAY, *late]],
        num_items=5,
    )
    scores = RecentPopularity.fit(dataset, recent_days=5)(Histories.of(torch.ones(2, 3, dtype=torch.int64)))
    assert scores.shape == (2, 6)
    assert torch.equal(scores[0], scores[1])
    # 2 and 3 are recent, 3 is more frequent over all; then 1, which is not recent; 4 and 5 are tied at nothing.
    assert scores[0, 3] > scores[0, 2] > scores[0, 1] > scores[0, 4] == scores[0, 5]


def naive_cooccurrence(dataset: PreparedDataset, config: CoOccurrenceConfig, history: list[int]) -> np.ndarray:
    counts: dict[tuple[int, int], float] = defaultdict(float)
    popularity: Counter[int] = Counter()
    for user in range(dataset.num_users):
        sequence = dataset.items[dataset.offsets[user] : dataset.offsets[user + 1] - 2].tolist()
        popularity.update(sequence)
        for a in range(len(sequence)):
            for b in range(len(sequence)):
                if a != b and abs(a - b) <= config.window:
                    counts[sequence[a], sequence[b]] += 1 / abs(a - b)
    scores = np.zeros(dataset.num_items + 1)
    for age, item in enumerate(reversed(history[-config.history :])):
        for other in range(1, dataset.num_items + 1):
            weight = counts[item, other] / max(popularity[other], 1) ** config.normalisation
            scores[other] += config.decay**age * weight
    return scores


@pytest.mark.parametrize(
    "config", [CoOccurrenceConfig(), CoOccurrenceConfig(window=2, history=1, decay=1.0, normalisation=0.0)]
)
def test_cooccurrence_equals_a_naive_loop(random_dataset: PreparedDataset, config: CoOccurrenceConfig) -> None:
    rows = random_dataset.rows("test")
    items, lengths = random_dataset.histories(rows)
    scores = CoOccurrence.fit(random_dataset, config)(Histories.of_rows(random_dataset, rows))
    for row in range(len(rows)):
        expected = naive_cooccurrence(random_dataset, config, items[row, : lengths[row]].tolist())
        assert scores[row, 1:].numpy() == pytest.approx(expected[1:], abs=2e-9)


def test_where_nothing_co_occurs_popularity_decides(make) -> None:
    dataset = make([[1, 1, 2, 2], [3, 3, 3, 4, 4], [5, 5, 6, 6], [5, 1, 6, 6], [3, 5, 6, 6]], num_items=7)
    scores = CoOccurrence.fit(dataset)(Histories.of(torch.tensor([[6, 0]])))[0]
    assert scores[3] == scores[5] > scores[1] > scores[7] == scores[2]
    assert scores.min() >= 0 and scores.max() < 1e-8


def test_many_chunks_of_users_give_the_same(random_dataset: PreparedDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = CoOccurrence.fit(random_dataset)
    monkeypatch.setattr("recsys.evaluation.baselines._USERS_AT_ONCE", 3)
    chunked = CoOccurrence.fit(random_dataset)
    assert whole.weights.toarray() == pytest.approx(chunked.weights.toarray()) and whole.stored == chunked.stored


@pytest.mark.parametrize("kind", ["recent-popularity", "co-occurrence"])
def test_held_out_interactions_change_no_score(random_dataset: PreparedDataset, kind: str) -> None:
    """Baselines must not look at validation and test targets."""
    items = random_dataset.items.copy()
    held_out = np.concatenate([random_dataset.rows("valid"), random_dataset.rows("test")])
    items[held_out] = 1
    changed = dataclasses.replace(random_dataset, items=items)
    shown = Histories.of_rows(random_dataset, random_dataset.rows("valid"))
    one, other = (fit_baseline(kind, d, EvaluationConfig())(shown) for d in (random_dataset, changed))
    assert torch.equal(one, other)


@pytest.mark.parametrize("kind", ["recent-popularity", "co-occurrence"])
def test_the_ranking_code_takes_them(random_dataset: PreparedDataset, kind: str) -> None:
    baseline = fit_baseline(kind, random_dataset, EvaluationConfig())
    assert baseline.kind == kind
    assert baseline.stored > 0
    ranks = rank_targets(baseline, random_dataset, random_dataset.rows("test"), mask_seen=True, batch_size=16)
    assert ranks.min() >= 1 and ranks.max() <= random_dataset.num_items + 1  # a miss
