import itertools

import numpy as np
import pytest

from recsys.data.splits import find_seen_by_training, global_time, leave_one_out


def naive_leave_one_out(offsets):
    train, valid, test, seen = [], [], [], []
    for start, end in itertools.pairwise(offsets):
        held_out = 2 if end - start >= 3 else 0
        targets = list(range(start + 1, end - held_out))
        train += targets
        if held_out:
            valid.append(end - 2)
            test.append(end - 1)
        last = targets[-1] if targets else -1
        seen += [row <= last for row in range(start, end)]
    return train, valid, test, seen


def naive_global_time(offsets, timestamps, every_prefix):
    samples = []
    for start, end in itertools.pairwise(offsets):
        n = end - start
        for i in range(1 if every_prefix else min(10, n - 1), n):
            if i > 0:
                samples.append(start + i)
    samples.sort(key=lambda row: timestamps[row])
    a, b = int(len(samples) * 0.8), int(len(samples) * 0.9)
    return sorted(samples[:a]), sorted(samples[a:b]), sorted(samples[b:])


@pytest.fixture
def offsets():
    lengths = [5, 1, 2, 3, 4, 11, 30, 10, 1, 12]
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def test_leave_one_out_agrees_with_loops(offsets) -> None:
    rows = leave_one_out(offsets)
    train, valid, test, seen = naive_leave_one_out(offsets.tolist())
    assert rows["train"].tolist() == train
    assert rows["valid"].tolist() == valid
    assert rows["test"].tolist() == test
    assert find_seen_by_training(offsets, rows["train"]).tolist() == seen


def test_leave_one_out_by_hand() -> None:
    rows = leave_one_out(np.array([0, 4, 6, 9]))
    assert {split: value.tolist() for split, value in rows.items()} == {
        "train": [1, 5],
        "valid": [2, 7],
        "test": [3, 8],
    }


@pytest.mark.parametrize("every_prefix", [False, True])
def test_global_time_agrees_with_loops(offsets, every_prefix) -> None:
    generator = np.random.default_rng(1)
    times = np.concatenate([np.sort(generator.integers(0, 20, n)) for n in np.diff(offsets)])  # many ties
    rows = global_time(offsets, times, every_prefix=every_prefix)
    train, valid, test = naive_global_time(offsets.tolist(), times.tolist(), every_prefix)
    assert rows["train"].tolist() == train
    assert rows["valid"].tolist() == valid
    assert rows["test"].tolist() == test
    assert times[train].max() <= times[valid].min()
    assert times[valid].max() <= times[test].min()
    seen = find_seen_by_training(offsets, rows["train"])
    starts = offsets[np.searchsorted(offsets, train, side="right") - 1]
    expected = np.zeros(len(times), dtype=bool)
    for start, row in zip(starts, train, strict=True):
        expected[start : row + 1] = True
    assert seen.tolist() == expected.tolist()


def test_no_user_at_all() -> None:
    empty = np.zeros(1, dtype=np.int64)
    for rows in (leave_one_out(empty), global_time(empty, np.zeros(0, dtype=np.int64))):
        assert [len(value) for value in rows.values()] == [0, 0, 0]
