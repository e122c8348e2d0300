import math
from collections import Counter

import pytest
import torch

from recsys.distillers.draws import draw_columns, draw_distinct, draw_others


def test_others_are_drawn_evenly_from_what_is_not_left_out() -> None:
    torch.manual_seed(0)
    left_out = torch.tensor([[3, 1, 3, 7], [8, 2, 5, 1]])
    drawn = draw_others(left_out, 8, 6000)
    for row, free in zip(drawn.tolist(), [[2, 4, 5, 6, 8], [3, 4, 6, 7]], strict=True):
        counts = Counter(row)
        assert sorted(counts) == free
        assert all(abs(count / 6000 - 1 / len(free)) < 0.03 for count in counts.values())


def test_columns_are_drawn_by_their_weights() -> None:
    torch.manual_seed(0)
    weights = torch.tensor([1.0, 3.0, 0.0, 4.0])
    many = weights.log().expand(6000, 4)
    drawn = draw_columns(many[:1], 6000)[0]
    for column, weight in enumerate(weights.tolist()):
        assert float((drawn == column).float().mean()) == pytest.approx(weight / 8, abs=0.03)
    first, second = draw_distinct(many, 2).T
    assert not (first == second).any() and not (first == 2).any() and not (second == 2).any()
    after_one = ((first == 1) & (second == 3)).float().mean()  # without replacement: 3/8 · 4/5
    assert float(after_one) == pytest.approx(3 / 8 * 4 / 5, abs=0.03)
    assert (draw_distinct(many, 4)[:, 3] == 2).all(), "what has no weight comes last"


def test_nothing_is_drawn_for_no_rows() -> None:
    assert draw_distinct(torch.zeros(0, 4), 2).shape == (0, 2)
    assert draw_columns(torch.zeros(0, 4), 3).shape == (0, 3)
    assert draw_others(torch.zeros(0, 4, dtype=torch.long), 9, 3).shape == (0, 3)
    assert math.isfinite(float(draw_distinct(torch.zeros(1000, 3), 1).sum()))
