"""Reference baselines that count: recent popularity and item co-occurrence.

Both see the interactions that training may see, and are scorers as `recsys.evaluation.ranking` takes them, so that the
same code ranks them and the models. What looks like a gain over a neural model is none when counting does as well.

Legend: B batch, L history, N items, T training interactions, P distinct pairs of items.
"""

from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from recsys.data.prepared import PreparedDataset
from recsys.data.splits import find_seen_by_training
from recsys.evaluation.config import CoOccurrenceConfig, EvaluationConfig
from recsys.histories import Histories

_DAY = 86_400
_USERS_AT_ONCE = 4096


class Baseline(Protocol):
    """A scorer that knows how many numbers it stores."""

    kind: ClassVar[str]

    @property
    def stored(self) -> int:
        """Numbers kept for serving, the counterpart of a model's parameters."""

    def __call__(self, histories: Histories, /) -> Tensor:
        """[B, N+1] float64."""


def fit_baseline(kind: str, dataset: PreparedDataset, config: EvaluationConfig) -> Baseline:
    """The baseline of that kind, fitted on the training interactions."""
    if kind == RecentPopularity.kind:
        return RecentPopularity.fit(dataset, config.recent_days)
    assert kind == CoOccurrence.kind, f"no baseline {kind!r}"
    return CoOccurrence.fit(dataset, config.cooccurrence)


@dataclass(frozen=True)
class RecentPopularity:
    """The same ranking for everybody: how often an item occurs in the last days of training.

    Items with equally many recent occurrences, zero included, are ordered by their count over all of training; items
    that are equal in both stay tied. Memory: N+1 numbers.

    Attributes:
        scores: [N+1] float64, dense ranks.
    """

    scores: Tensor
    kind: ClassVar[str] = "recent-popularity"

    @classmethod
    def fit(cls, dataset: PreparedDataset, recent_days: float) -> "RecentPopularity":
        """Count in the `recent_days` before the last training interaction (timestamps are in seconds)."""
        training = find_seen_by_training(dataset.offsets, dataset.rows("train"))
        items, timestamps = dataset.items[training], dataset.timestamps[training]
        size = dataset.num_items + 1
        recent = np.zeros(size, dtype=np.int64)
        if len(items):
            recent = np.bincount(items[timestamps > timestamps.max() - recent_days * _DAY], minlength=size)
        pairs = np.stack([recent, np.bincount(items, minlength=size)], axis=1)
        _, ranks = np.unique(pairs, axis=0, return_inverse=True)  # lexicographic, so recent counts come first
        return cls(torch.from_numpy(ranks.reshape(-1).astype(np.float64)))

    @property
    def stored(self) -> int:
        return len(self.scores) - 1

    def __call__(self, histories: Histories) -> Tensor:
        return self.scores.expand(len(histories), -1)


@dataclass(frozen=True)
class CoOccurrence:
    """Items that follow or precede the latest items of the history in other users' training sequences.

    score(j) = Σ_i decay^(age of i) · C[i, j] over the latest `history` items i, where C[i, j] sums 1 / distance over
    the training occurrences of i and j of one user at most `window` apart, divided by count(j)^normalisation so that
    popular items do not win everywhere. Where that is zero or equal, popularity decides.

    Memory: 12 bytes per distinct pair kept (P ≤ 2 · window · T), a small multiple of it while counting; a batch takes
    8 · B · N bytes.

    Attributes:
        weights: [N+1, N+1] float64, C[i, j] / count(j)^normalisation.
        popularity: [N+1] float64 in [0, 1), the rank by training count.
    """

    config: CoOccurrenceConfig
    weights: sparse.csr_array
    popularity: np.ndarray
    kind: ClassVar[str] = "co-occurrence"

    @classmethod
    def fit(cls, dataset: PreparedDataset, config: CoOccurrenceConfig | None = None) -> "CoOccurrence":
        config = config or CoOccurrenceConfig()
        size = dataset.num_items + 1
        training = find_seen_by_training(dataset.offsets, dataset.rows("train"))
        counts = np.bincount(dataset.items[training], minlength=size)
        forward = sparse.csr_array((size, size))
        for first in range(0, dataset.num_users, _USERS_AT_ONCE):
            begin, end = dataset.offsets[first], dataset.offsets[min(first + _USERS_AT_ONCE, dataset.num_users)]
            chosen = np.arange(begin, end)[training[begin:end]]
            forward = forward + _count_pairs(dataset.items[chosen], dataset.users_of(chosen), config.window, size)
        divided = sparse.diags_array(np.maximum(counts, 1.0) ** -config.normalisation)
        ranks = np.unique(counts, return_inverse=True)[1].reshape(-1)
        weights = sparse.csr_array((forward + forward.T) @ divided)
        return cls(config=config, weights=weights, popularity=ranks / (ranks.max() + 1))

    @property
    def stored(self) -> int:
        return self.weights.nnz

    def __call__(self, histories: Histories) -> Tensor:
        history, length = histories.items.cpu().numpy(), histories.lengths.cpu().numpy()
        columns = length[:, None] - 1 - np.arange(self.config.history)
        rows, ages = np.nonzero(columns >= 0)
        latest = history[rows, columns[rows, ages]]
        shape = (len(history), len(self.popularity))
        scores = (sparse.csr_array((self.config.decay**ages, (rows, latest)), shape=shape) @ self.weights).toarray()
        # Far below any co-occurrence, so that popularity only decides among equals.
        return torch.from_numpy(scores + 1e-9 * self.popularity)


def _count_pairs(items: np.ndarray, users: np.ndarray, window: int, size: int) -> sparse.csr_array:
    """[size, size]: the sum of 1 / distance over each user's pairs at most `window` apart, by (earlier, later) item."""
    pairs = sparse.csr_array((size, size))
    for distance in range(1, window + 1):
        same = users[distance:] == users[:-distance]
        found = items[:-distance][same], items[distance:][same]
        pairs = pairs + sparse.csr_array((np.full(len(found[0]), 1 / distance), found), shape=(size, size))
    return pairs
