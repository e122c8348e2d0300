"""Is the difference of two models more than chance? Paired bootstrap over users."""

from dataclasses import dataclass

import numpy as np

DRAWS_AT_ONCE = 2_000_000


@dataclass(frozen=True)
class Interval:
    """A difference of means with its bootstrap percentile interval.

    Attributes:
        difference: mean over rows of (a − b).
        low, high: bounds.
        confidence: of the interval, 0.95 for instance.
        users: number of users resampled.
    """

    difference: float
    low: float
    high: float
    confidence: float
    users: int


def paired_bootstrap(
    a: np.ndarray, b: np.ndarray, users: np.ndarray, *, samples: int = 2000, confidence: float = 0.95, seed: int = 0
) -> Interval:
    """Percentile interval of mean(a) − mean(b), users drawn with replacement and all rows of a user together.

    It tells the luck of which users were tested, not that of the training seed: for that train several seeds.

    Args:
        a, b: [R] a metric per row of two models on the same rows, NDCG@10 for instance.
        users: [R] user of each row.

    Memory: bounded by some 10^6 draws at once, whatever `samples` is.
    """
    assert len(a) == len(b) == len(users) > 0, "both models are compared on the same rows"
    which = np.unique(users, return_inverse=True)[1].reshape(-1)
    sums = np.bincount(which, a.astype(np.float64) - b.astype(np.float64))
    sizes = np.bincount(which).astype(np.float64)
    generator = np.random.default_rng(seed)
    at_once = max(1, DRAWS_AT_ONCE // len(sums))
    means = []
    for done in range(0, samples, at_once):
        drawn = generator.integers(len(sums), size=(min(at_once, samples - done), len(sums)))
        means.append(sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1))
    low, high = np.quantile(np.concatenate(means), [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(
        difference=float(sums.sum() / sizes.sum()),
        low=float(low),
        high=float(high),
        confidence=confidence,
        users=len(sums),
    )
