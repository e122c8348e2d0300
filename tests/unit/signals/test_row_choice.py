"""Choices of rows against plain loops."""

import math

import numpy as np
import pytest
import torch

from recsys.signals.row_choice import disagreement, entropy, order_by, order_by_turns


def test_entropy_is_that_of_the_softmax_over_what_is_left_in() -> None:
    scores = torch.randn(5, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    scores[:, 0] = 7  # no item
    scores[2, 3:6] = -torch.inf
    for found, row in zip(entropy(scores).tolist(), scores.tolist(), strict=True):
        weights = [math.exp(score) for score in row[1:]]
        shares = [weight / sum(weights) for weight in weights]
        assert found == pytest.approx(-sum(share * math.log(share) for share in shares if share))


def test_entropy_of_equal_scores_is_the_logarithm_of_their_number() -> None:
    scores = torch.zeros(1, 9)
    scores[0, 5:] = -torch.inf
    assert entropy(scores).item() == pytest.approx(math.log(4))


def test_disagreement_counts_what_the_other_list_lacks() -> None:
    generator = np.random.default_rng(0)
    one, other = (np.stack([generator.permutation(12)[:5] for _ in range(40)]) for _ in range(2))
    expected = [len(set(a) - set(b)) / 5 for a, b in zip(one.tolist(), other.tolist(), strict=True)]
    assert disagreement(one, other).tolist() == pytest.approx(expected)
    assert disagreement(one, one[:, ::-1]).tolist() == [0] * 40


def test_the_greatest_come_first_and_equal_ones_by_chance() -> None:
    values = np.array([0.5, 2.0, 0.5, -1.0, 0.5, 0.5, 3.0])
    orders = [order_by(values, seed=seed).tolist() for seed in range(20)]
    assert all(order[:2] == [6, 1] and order[-1] == 3 and sorted(order) == list(range(7)) for order in orders)
    assert len({tuple(order) for order in orders}) > 5
    assert orders[3] == order_by(values, seed=3).tolist()


def test_every_beginning_meets_as_many_groups_as_can_be() -> None:
    groups = np.random.default_rng(0).zipf(1.5, 300) % 40
    order = order_by_turns(groups, seed=0)
    assert sorted(order.tolist()) == list(range(300))
    left = np.bincount(groups)
    for size in range(1, 301):
        met = np.bincount(groups[order[:size]], minlength=len(left))
        assert (met > 0).sum() == min(size, (left > 0).sum())
        fewest = (
            min(taken for taken, there in zip(met, left, strict=True) if taken < there) if size < 300 else met.max()
        )
        assert met.max() <= fewest + 1, "no group has a turn before all that are left had theirs"


def test_rows_of_a_group_come_by_chance() -> None:
    groups = np.repeat([3, 8], 50)
    first = {tuple(sorted(order_by_turns(groups, seed=seed)[:2].tolist())) for seed in range(20)}
    assert len(first) > 10
    assert np.array_equal(order_by_turns(groups, seed=5), order_by_turns(groups, seed=5))
