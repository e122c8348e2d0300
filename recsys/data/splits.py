"""Split protocols: which positions of which sequences are predicted in training, validation and test.

Legend: U users, T interactions (user u owns `offsets[u]:offsets[u+1]`, oldest first), R rows. A row is the offset of
its target. Everything is vectorised; memory is a few int64 arrays of length T.
"""

from typing import Literal

import numpy as np

Split = Literal["train", "valid", "test"]
SPLITS: tuple[Split, ...] = ("train", "valid", "test")

# The BIGRec rule: no target before this position, unless the sequence is shorter.
FIRST_TARGET = 10


def leave_one_out(offsets: np.ndarray) -> dict[Split, np.ndarray]:
    """The last item of a user is the test target, the one before the validation target, every earlier one but the
    first a training target.

    A user with fewer than three items gives no test and no validation row, since training would be left with nothing of
    this user: both items are training's (one row), as in the original SASRec code. With exactly three items there is a
    test and a validation row and no training row. A user with one item has no row.

    Args:
        offsets: [U+1] int64.
    """
    lengths = np.diff(offsets)
    long_enough = lengths >= 3
    last = offsets[1:] - 1
    first_held_out = np.where(long_enough, last - 1, offsets[1:])
    return {
        "train": _ranges(offsets[:-1] + 1, first_held_out),
        "valid": last[long_enough] - 1,
        "test": last[long_enough],
    }


def global_time(offsets: np.ndarray, timestamps: np.ndarray, *, every_prefix: bool = False) -> dict[Split, np.ndarray]:
    """Rows sorted by the time of their target; the first 80 % train, the next 10 % validation, the last 10 % test.

    The rule of BIGRec (arXiv 2308.08434, its preprocessing notebook), by which DLLM2Rec was measured: a user with n
    items gives the targets i = min(10, n−1), …, n−1. Its other half, that items without a title are dropped first, is
    `recsys.data.prepare`'s. The sort is stable: rows of equal time stay in the order of users and positions. Users with
    one item give no row, as there would be no history. The bounds are ⌊0.8 R⌋ and ⌊0.9 R⌋.

    Args:
        offsets: [U+1] int64.
        timestamps: [T] int64.
        every_prefix: targets from position 1 on, instead of from min(10, n−1).
    """
    lengths = np.diff(offsets)
    first = np.ones_like(lengths) if every_prefix else np.maximum(np.minimum(FIRST_TARGET, lengths - 1), 1)
    rows = _ranges(offsets[:-1] + first, offsets[1:])
    rows = rows[np.argsort(timestamps[rows], kind="stable")]
    train, valid = len(rows) * 8 // 10, len(rows) * 9 // 10
    return {
        "train": np.sort(rows[:train]),
        "valid": np.sort(rows[train:valid]),
        "test": np.sort(rows[valid:]),
    }


def every_interaction(
    offsets: np.ndarray, timestamps: np.ndarray, rows: dict["Split", np.ndarray], *, unseen_users: bool
) -> np.ndarray:
    """Training rows of `global_time` beyond its rule: every interaction that has one before it and may be learned from.

    Validation and test stay those of the rule, and nothing is learned that happens at or after the first validation
    target, but for the rule's own training rows of the same instant.

    Args:
        offsets: [U+1] int64.
        timestamps: [T] int64.
        rows: of the rule.
        unseen_users: False takes what `find_seen_by_training` finds: targets and histories of the rule's rows. True
            takes all before the first validation target, those of users too whose only row is of validation or test.
    """
    if unseen_users and len(rows["valid"]):
        chosen = timestamps < timestamps[rows["valid"]].min()
        chosen[rows["train"]] = True
    else:
        chosen = find_seen_by_training(offsets, rows["train"])
    chosen[offsets[:-1][np.diff(offsets) > 0]] = False  # without a history
    return np.flatnonzero(chosen)


def find_seen_by_training(offsets: np.ndarray, train_rows: np.ndarray) -> np.ndarray:
    """Which interactions training may see, [T] bool: those that are target or history of a training row, which is each
    user's past up to the last training target. What follows, and users without a training row, is held out.

    Args:
        offsets: [U+1] int64.
        train_rows: [R] int64 ascending.
    """
    last = np.full(len(offsets) - 1, -1, dtype=np.int64)
    last[np.searchsorted(offsets, train_rows, side="right") - 1] = train_rows  # ascending: a user's last one stays
    return np.arange(offsets[-1]) <= np.repeat(last, np.diff(offsets))


def _ranges(starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """The concatenation of `range(start, end)`, int64; empty where the end does not lie behind the start."""
    counts = np.maximum(ends - starts, 0)
    shift = np.repeat(starts - np.concatenate([[0], np.cumsum(counts)[:-1]]), counts)
    return shift + np.arange(counts.sum())
