import numpy as np

from recsys.signals.rankings import Rankings, finite_only, join_rankings


def rankings(*rows: int) -> Rankings:
    """Of which everything tells the row."""
    row = np.array(rows)
    items, scores = np.stack([row, row + 1], axis=1), np.stack([row / 2, row / 4], axis=1)
    return Rankings(row, items.astype(np.int32), scores.astype(np.float32), row / 8, log_mass=-row / 1, tokens=len(row))


def assert_equal(found: Rankings, expected: Rankings) -> None:
    for name, value in vars(expected).items():
        np.testing.assert_array_equal(getattr(found, name), value, err_msg=name)


def test_joined_rows_ascend() -> None:
    assert_equal(join_rankings([rankings(4, 9), rankings(2), rankings(5, 11)]), rankings(2, 4, 5, 9, 11))


def test_rows_without_a_finite_score_or_distance_are_left_out() -> None:
    whole = rankings(3, 5, 6, 8)
    whole.scores[0, 1], whole.target_distance[2] = -np.inf, np.nan
    rest = finite_only(whole)
    assert rest.rows.tolist() == [5, 8] and rest.items.tolist() == [[5, 6], [8, 9]]
    assert rest.target_distance.tolist() == [5 / 8, 1.0]
    whole.target_distance[:] = np.nan
    assert len(finite_only(whole).rows) == 0
