import math

import numpy as np
import pytest

from recsys.evaluation.metrics import HR_CUTOFFS, NDCG_CUTOFFS, gains, metrics_from_ranks


def test_by_hand() -> None:
    metrics = metrics_from_ranks(np.array([1, 3, 11, 40]))
    assert metrics["hr@1"] == 0.25
    assert metrics["hr@5"] == metrics["hr@10"] == 0.5
    assert metrics["hr@20"] == 0.75
    assert metrics["ndcg@5"] == metrics["ndcg@10"] == pytest.approx((1 + 1 / 2) / 4)
    assert metrics["ndcg@20"] == pytest.approx((1 + 1 / 2 + 1 / math.log2(12)) / 4)
    assert metrics["mrr"] == pytest.approx((1 + 1 / 3 + 1 / 11 + 1 / 40) / 4)


def test_equals_a_loop_over_relevance_lists() -> None:
    ranks = np.random.default_rng(0).integers(1, 60, size=500)
    metrics = metrics_from_ranks(ranks)
    for k in HR_CUTOFFS:
        assert metrics[f"hr@{k}"] == pytest.approx(sum(r <= k for r in ranks) / 500)
    for k in NDCG_CUTOFFS:
        total = 0.0
        for rank in ranks:
            relevance = [1.0 if place == rank else 0.0 for place in range(1, k + 1)]
            total += sum(r / math.log2(place + 1) for place, r in enumerate(relevance, start=1))  # ideal DCG is 1
        assert metrics[f"ndcg@{k}"] == pytest.approx(total / 500)


def test_the_denominator_is_every_row() -> None:
    assert metrics_from_ranks(np.array([1, 1000, 1000, 1000]))["ndcg@10"] == 0.25


def test_gains_are_per_row() -> None:
    assert gains(np.array([1, 2, 10, 11]), 10) == pytest.approx([1, 1 / math.log2(3), 1 / math.log2(11), 0])


def test_ranks_start_at_one() -> None:
    with pytest.raises(AssertionError, match="start at 1"):
        metrics_from_ranks(np.array([0, 1]))
