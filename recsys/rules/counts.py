"""Counting which item follows which, with numpy and SciPy's sparse matrices.

score(j | h) = Σ_{i in h} δ^age(i) · N(i, j) · f_i^−a · f_j^−b with N(i, j) = n(i→j) + β n(j→i), where n(i→j) sums
1 / distance^c over the pairs of one user's training events in which j follows i at most `window` events later, age 0 is
the latest item of the history h, and f is an item's number of training events. These are the sequential rules of
Ludewig and Jannach, "Evaluation of session-based recommendation algorithms" (UMUAI 2018), with frequencies divided out.

Legend: T training events, N items, P distinct pairs of items (P ≤ 2 · window · T), R rows, G distinct (user, item).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from recsys.data.prepared import PreparedDataset
from recsys.data.splits import find_seen_by_training
from recsys.evaluation.metrics import gains
from recsys.evaluation.ranking import find_seen_targets
from recsys.rules.config import RulesConfig

EVENTS_AT_ONCE = 1 << 18
PAIRS_AT_ONCE = 1 << 22


@dataclass(frozen=True)
class Events:
    """The events that training may see, user by user, oldest first.

    Attributes:
        items, users: [T] int64.
    """

    items: np.ndarray
    users: np.ndarray
    num_items: int

    @classmethod
    def of(cls, dataset: PreparedDataset) -> "Events":
        seen = np.flatnonzero(find_seen_by_training(dataset.offsets, dataset.rows("train")))
        return cls(dataset.items[seen].astype(np.int64), dataset.users_of(seen), dataset.num_items)

    @property
    def frequency(self) -> np.ndarray:
        """[N+1] int64."""
        return np.bincount(self.items, minlength=self.num_items + 1)

    def of_users(self, first: int, last: int) -> "Events":
        """Those of the users `first` to `last`, both included."""
        begin, end = np.searchsorted(self.users, [first, last + 1])
        return Events(self.items[begin:end], self.users[begin:end], self.num_items)

    def chunks(self) -> Iterator["Events"]:
        """Whole users, as many at once as fit into memory with their pairs."""
        begin = 0
        while begin < len(self.users):
            user = self.users[min(begin + EVENTS_AT_ONCE, len(self.users)) - 1]
            end = int(np.searchsorted(self.users, user, side="right"))
            yield Events(self.items[begin:end], self.users[begin:end], self.num_items)
            begin = end


def follows(events: Events, window: int, distance: float) -> sparse.csr_array:
    """n(i→j): [N+1, N+1] float64. Memory: 16 bytes for each of at most window · T pairs."""
    size = events.num_items + 1
    total = sparse.csr_array((size, size))
    for part in events.chunks():
        total = total + _pairs(part, part.items, size, window, distance)
    return sparse.csr_array(total)


def _pairs(
    events: Events, sources: np.ndarray, size: int, window: int, distance: float, backward: float | None = None
) -> sparse.csr_array:
    """[size, N+1]: the pairs of each event, in the matrix row that `sources` ([T]) gives it, by the other's item.

    Args:
        backward: weight of the pairs against their direction; None leaves them out.
    """
    rows, columns, values = [], [], []
    for apart in range(1, min(window, len(events.items) - 1) + 1):
        before = np.flatnonzero(events.users[apart:] == events.users[:-apart])
        if not len(before):
            break
        weight = np.full(len(before), apart**-distance)
        rows.append(sources[before])
        columns.append(events.items[before + apart])
        values.append(weight)
        if backward:
            rows.append(sources[before + apart])
            columns.append(events.items[before])
            values.append(backward * weight)
    shape = (size, events.num_items + 1)
    if not rows:
        return sparse.csr_array(shape)
    found = (np.concatenate(rows).astype(np.int32), np.concatenate(columns).astype(np.int32))
    return sparse.csr_array((np.concatenate(values), found), shape=shape)


@dataclass(frozen=True)
class Counts:
    """N(i, j) and f.

    Attributes:
        pairs: [N+1, N+1] float64.
        frequency: [N+1] int64.
    """

    config: RulesConfig
    pairs: sparse.csr_array
    frequency: np.ndarray

    @classmethod
    def fit(cls, dataset: PreparedDataset, config: RulesConfig) -> "Counts":
        """Count; time and memory are in proportion to the pairs of events, at most window · T."""
        events = Events.of(dataset)
        return cls.of(follows(events, config.window, config.distance), events.frequency, config)

    @classmethod
    def of(cls, forward: sparse.csr_array, frequency: np.ndarray, config: RulesConfig) -> "Counts":
        """From n(i→j), which knows window and distance already. Memory: for a moment up to 4 times that of it."""
        if not config.backward:
            return cls(config, forward, frequency)
        backward = forward.T.tocsr()
        backward.data *= config.backward
        return cls(config, sparse.csr_array(forward + backward), frequency)

    def rules(self) -> sparse.csr_array:
        """N(i, j) · f_i^−a · f_j^−b, [N+1, N+1] float64: the `successors` strongest of each item alone.

        Where to is not copied but shared with `pairs`, of which there may be hundreds of millions.
        """
        config, pairs = self.config, self.pairs
        weights = np.repeat(_power(self.frequency, config.source), np.diff(pairs.indptr))
        weights *= pairs.data
        target = _power(self.frequency, config.target)
        for begin in range(0, len(weights), PAIRS_AT_ONCE):
            part = slice(begin, begin + PAIRS_AT_ONCE)
            weights[part] *= target[pairs.indices[part]]
        weighted = sparse.csr_array((weights, pairs.indices, pairs.indptr), shape=pairs.shape)
        return weighted if config.successors is None else _strongest(weighted, config.successors)


class WithoutUser:
    """The scores of training rows as if their user had never been counted, exactly and without counting again.

    A user's own pairs lie between items of the user's own sequence alone: they are subtracted from N, and the user's
    own events from f.
    """

    def __init__(self, dataset: PreparedDataset, config: RulesConfig) -> None:
        assert config.successors is None, "what was cut away cannot be subtracted"
        self._dataset = dataset
        self._events = Events.of(dataset)
        self._counts = Counts.fit(dataset, config)

    def scores(self, rows: np.ndarray) -> np.ndarray:
        """score(j | history of the row), [R, N+1] float64. Rows are ascending; memory is a few times that of the scores
        plus the pairs of their users' events."""
        config, frequency = self._counts.config, self._counts.frequency
        size = len(frequency)
        users = self._dataset.users_of(rows)
        events = self._events.of_users(int(users[0]), int(users[-1]))
        groups, group_of = np.unique(events.users * size + events.items, return_inverse=True)
        group_of = group_of.reshape(-1)
        own = _pairs(events, group_of, len(groups), config.window, config.distance, config.backward)
        own_frequency = np.bincount(group_of, minlength=len(groups))  # [G]

        history, lengths = self._dataset.histories(rows)
        which, column = np.nonzero(np.arange(history.shape[1]) < lengths[:, None])
        items = history[which, column]
        group = np.searchsorted(groups, users[which] * size + items)
        assert np.array_equal(groups[group], users[which] * size + items), "a training row's history is training's"
        others = frequency[items] - own_frequency[group]
        weights = config.decay ** (lengths[which] - 1 - column) * _power(others, config.source)
        starts = np.concatenate([[0], np.cumsum(lengths)])
        by_item = sparse.csr_array((weights, items, starts), shape=(len(rows), size))
        by_group = sparse.csr_array((weights, group, starts), shape=(len(rows), len(groups)))
        everybody = (by_item @ self._counts.pairs).toarray()
        scores = everybody - (by_group @ own).toarray()
        scores[scores < 1e-12 * everybody] = 0  # what is left of pairs that were this user's alone is rounding
        scores *= _power(frequency, config.target)
        # f_j differs from everybody's for the items of the user's own sequence alone.
        first, last = np.searchsorted(events.users, users), np.searchsorted(events.users, users, side="right")
        which = np.repeat(np.arange(len(rows)), last - first)
        within = np.arange(len(which)) - np.repeat(np.cumsum(last - first) - (last - first), last - first)
        group = group_of[first[which] + within]
        cells, once = np.unique(which * size + groups[group] % size, return_index=True)
        item, group = cells % size, group[once]
        left = _power(frequency[item] - own_frequency[group], config.target) / _power(frequency[item], config.target)
        scores.reshape(-1)[cells] *= left
        return scores


def history_weights(
    dataset: PreparedDataset, rows: np.ndarray, decay: float, latest: int | None = None
) -> sparse.csr_array:
    """δ^age of the items of each row's history, [R, N+1] float64.

    Args:
        latest: of each history no more than so many; all that a model is shown where left out.
    """
    history, lengths = dataset.histories(rows, latest)
    which, column = np.nonzero(np.arange(history.shape[1]) < lengths[:, None])
    starts = np.concatenate([[0], np.cumsum(lengths)])
    values = decay ** (lengths[which] - 1 - column).astype(np.float64)
    return sparse.csr_array((values, history[which, column], starts), shape=(len(rows), dataset.num_items + 1))


def mean_gain(weights: sparse.csr_array, rules: sparse.csr_array, dataset: PreparedDataset, rows: np.ndarray) -> float:
    """Mean NDCG@10 of rows by full ranking, as of `rank_by_counts`."""
    return sum(float(gains(rank, 10).sum()) for rank in _ranks(weights, rules, dataset, rows)) / len(rows)


def rank_by_counts(
    weights: sparse.csr_array, rules: sparse.csr_array, dataset: PreparedDataset, rows: np.ndarray
) -> np.ndarray:
    """The rank of each row's target by full ranking, [R] float64, items of the user's past left out; infinite for a
    target of the past, or without a score.

    Time and memory are in proportion to the scores that are not zero, a part of the catalogue.

    Args:
        weights: `history_weights` of the rows.
    """
    return np.concatenate([np.zeros(0), *_ranks(weights, rules, dataset, rows)])


def _ranks(
    weights: sparse.csr_array, rules: sparse.csr_array, dataset: PreparedDataset, rows: np.ndarray
) -> Iterator[np.ndarray]:
    size = dataset.num_items + 1
    for begin in range(0, len(rows), 2048):
        batch = rows[begin : begin + 2048]
        scores = sparse.csr_array(weights[begin : begin + 2048] @ rules)
        which = np.repeat(np.arange(len(batch)), np.diff(scores.indptr))
        is_target = scores.indices == dataset.targets(batch)[which]
        of_target = np.zeros(len(batch))
        of_target[which[is_target]] = scores.data[is_target]
        ahead = np.flatnonzero((scores.data >= of_target[which]) & (of_target[which] > 0) & ~is_target)
        row, seen = dataset.past(batch)
        cells = which[ahead] * size + scores.indices[ahead]
        ahead = ahead[~np.isin(cells, row * size + seen)]
        rank = 1 + np.bincount(which[ahead], minlength=len(batch))
        yield np.where((of_target > 0) & ~find_seen_targets(dataset, batch), rank, np.inf)


def _power(frequency: np.ndarray, exponent: float) -> np.ndarray:
    """f^−exponent, 1 where f is 0."""
    return np.maximum(frequency, 1).astype(np.float64) ** -exponent


def _strongest(rules: sparse.csr_array, count: int) -> sparse.csr_array:
    """The `count` largest of each row."""
    row = np.repeat(np.arange(rules.shape[0]), np.diff(rules.indptr))
    order = np.lexsort((-rules.data, row))
    place = np.arange(len(order)) - np.repeat(rules.indptr[:-1], np.diff(rules.indptr))
    kept = order[place < count]
    return sparse.csr_array((rules.data[kept], (row[kept], rules.indices[kept])), shape=rules.shape)
