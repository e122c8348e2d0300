"""Training batches: windows over the sequences, each position of a window predicting the next item.

A causal model learns from every position of a window at once, so an epoch costs one pass over the interactions and no
prefix is copied. Windows of a user do not overlap; where a user has more than one, the cut moves at random from epoch
to epoch, so that every target is learned with short and long histories alike. Or the windows are given, and stay: one
for all rows whose history begins at the same place, or one for each row.

Legend: B batch, L history, W windows, T interactions.
"""

from collections.abc import Iterator

import numpy as np
import torch

from recsys.data.prepared import PreparedDataset
from recsys.training.batches import Batch
from recsys.training.config import Windowing

_POOL = 16  # batches whose windows are grouped by length, so that little padding is computed


class Windows:
    """Seeded batches of windows over the training rows; every process cuts the same batches and takes its share.

    Memory: 9 T bytes to know and count training rows, plus 16 bytes per window, 24 where windows are given.

    Args:
        batch_size: windows per step over all processes.
        times: batches say when the items were met.
        one_a_user: learn each user's last training target alone, from its latest history (SLMRec's training rows).
        starts: [S] for each training row where the window begins that it is learned in; windows may overlap.
        joined: rows whose windows begin at the same place share one; otherwise each is learned in a window of its own.
        rank, world: this process and how many there are.
    """

    def __init__(
        self,
        dataset: PreparedDataset,
        *,
        max_history: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        one_a_user: bool = False,
        times: bool = False,
        starts: np.ndarray | None = None,
        joined: bool = True,
    ) -> None:
        self._items = dataset.items
        self._timestamps = dataset.timestamps if times else None
        self._max_history = max_history
        self._batch_size = max(batch_size, world)
        self._seed, self._rank, self._world = seed, rank, world
        rows = dataset.rows("train")
        self._is_train = np.zeros(len(dataset.items), dtype=bool)
        users = dataset.users_of(rows)
        last_of_user = np.flatnonzero(np.diff(users, append=-1))
        self._last = rows[last_of_user]  # last training target of each user that has one
        self._one_a_user = one_a_user
        self._is_train[self._last if one_a_user else rows] = True
        self._start = dataset.offsets[users[last_of_user]]
        self._start_of: np.ndarray | None = None
        self._joined = joined
        if starts is None:
            self._before = np.concatenate([[0], np.cumsum(self._is_train)])  # training rows before each offset
        else:
            chosen = last_of_user if one_a_user else np.arange(len(rows))
            self._start_of = np.full(len(dataset.items), -1, dtype=np.int64)
            self._start_of[rows[chosen]] = starts[chosen]
            if joined:
                *self._given, self._given_targets = _join(starts[chosen], rows[chosen])
            else:
                self._given = [starts[chosen], rows[chosen]]
                self._given_targets = np.ones(len(chosen), dtype=np.int64)

    def cut(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The windows of an epoch as (first input, last target) offsets, [W] each: inputs first..last-1."""
        if self._start_of is not None:
            return self._given[0], self._given[1]
        generator = np.random.default_rng((self._seed, epoch, 1))
        length, limit = self._last - self._start, self._max_history
        if self._one_a_user:
            return np.maximum(self._last - limit, self._start), self._last
        shift = np.where(length > limit, generator.integers(0, limit, len(length)), 0)
        count = (length + shift + limit - 1) // limit
        owner = np.repeat(np.arange(len(length)), count)
        number = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        end = self._last[owner] + shift[owner] - number * limit
        first = np.maximum(end - limit, self._start[owner])
        last = np.minimum(end, self._last[owner])
        keep = last > first
        return first[keep], last[keep]

    def epoch(self, epoch: int) -> Iterator[tuple[Batch, float]]:
        """This process's part of each batch, and the mean number of targets a batch: windows of like length share a
        batch, and its sums divided by that make a row weigh the same, whether its batch has many targets or few."""
        first, last = self.cut(epoch)
        targets = (
            self._given_targets if self._start_of is not None else self._before[last + 1] - self._before[first + 1]
        )
        generator = np.random.default_rng((self._seed, epoch, 2))
        order = generator.permutation(len(first))
        pool = self._batch_size * _POOL
        batches = []
        for begin in range(0, len(order), pool):
            part = order[begin : begin + pool]
            part = part[np.argsort((last - first)[part], kind="stable")]
            batches += [part[i : i + self._batch_size] for i in range(0, len(part), self._batch_size)]
        shuffled = [batches[number] for number in generator.permutation(len(batches))]
        # Every process must take part in every step; the few windows left over come again next epoch.
        kept = [batch for batch in shuffled if len(batch) >= self._world and targets[batch].any()]
        mean = sum(float(targets[batch].sum()) for batch in kept) / max(len(kept), 1)
        for batch in kept:
            chosen = batch[self._rank :: self._world]
            yield self._batch(first[chosen], last[chosen]), mean

    def _mark_learned(self, rows: np.ndarray, first: np.ndarray, last: np.ndarray) -> np.ndarray:
        """Which rows of windows from `first` to `last` are learned there."""
        if self._start_of is None:
            return self._is_train[rows]
        return self._start_of[rows] == first if self._joined else rows == last

    def _batch(self, first: np.ndarray, last: np.ndarray) -> Batch:
        length = last - first
        columns = np.arange(length.max())
        inside = columns < length[:, None]
        index = np.where(inside, first[:, None] + columns, first[:, None])
        rows = np.where(inside, index + 1, -1)
        learned = inside & self._mark_learned(rows, first[:, None], last[:, None])
        batch = {
            "items": torch.from_numpy(np.where(inside, self._items[index], 0).astype(np.int64)),
            "targets": torch.from_numpy(np.where(learned, self._items[rows], 0).astype(np.int64)),
            "rows": torch.from_numpy(np.where(learned, rows, -1).astype(np.int64)),
        }
        if self._timestamps is not None:
            batch["times"] = torch.from_numpy(np.where(inside, self._timestamps[index], 0))
        return batch


def history_starts(dataset: PreparedDataset, histories: Windowing) -> np.ndarray | None:
    """[S] where the window of each training row begins; None where windows are cut anew in every epoch."""
    if histories == "windows":
        return None
    rows, limit = dataset.rows("train"), dataset.max_history
    first = dataset.offsets[dataset.users_of(rows)]
    beyond = np.maximum(rows - first - limit, 0)  # items of the past that do not fit the user's first window
    stride = max(1, limit // 2) if histories == "overlapping" else 1
    return first + -(-beyond // stride) * stride


def _join(starts: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each window once, to its last row, and how many rows it has."""
    first, window, count = np.unique(starts, return_inverse=True, return_counts=True)
    last = np.zeros(len(first), dtype=np.int64)
    np.maximum.at(last, window, rows)
    return first, last, count
