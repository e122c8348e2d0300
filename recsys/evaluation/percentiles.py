"""Percentiles with bootstrap intervals, of observations that come in clusters: the requests of a user or a second."""

from dataclasses import dataclass

import numpy as np

DRAWS_AT_ONCE = 20_000_000


@dataclass(frozen=True)
class Percentiles:
    """Percentiles and what the bootstrap drew.

    Attributes:
        values: [Q].
        draws: [samples, Q] the same of resampled clusters.
    """

    values: np.ndarray
    draws: np.ndarray

    def interval(self, confidence: float = 0.95) -> np.ndarray:
        """[Q, 2] bounds by percentiles of the draws."""
        return np.quantile(self.draws, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0).T

    def __sub__(self, other: "Percentiles") -> "Percentiles":
        """The differences of two independent groups."""
        return Percentiles(self.values - other.values, self.draws - other.draws)


def bootstrap_percentiles(
    values: np.ndarray, clusters: np.ndarray, levels: tuple[float, ...], *, samples: int = 500, seed: int = 0
) -> Percentiles:
    """Percentiles of `values`, whole clusters drawn with replacement (Efron and Tibshirani, 1993, chapter 8).

    A percentile is the smallest value at or below which that share of the values lies. Its interval is of one look, not
    of many.

    Args:
        values: [R] at least one.
        clusters: [R] whose they are.
        levels: [Q] between 0 and 100.

    Memory: bounded by some 10^7 draws at once, whatever `samples` is.
    """
    order = np.argsort(values, kind="stable")
    ordered = np.asarray(values, float)[order]
    which = np.unique(np.asarray(clusters), return_inverse=True)[1].reshape(-1)[order]
    count = int(which.max()) + 1
    shares = np.asarray(levels) / 100
    generator = np.random.default_rng(seed)
    at_once = max(1, DRAWS_AT_ONCE // len(ordered))
    draws = []
    for done in range(0, samples, at_once):
        rows = min(at_once, samples - done)
        drawn = generator.multinomial(count, np.full(count, 1 / count), size=rows)
        draws.append(_take(ordered, np.cumsum(drawn[:, which], axis=1), shares))
    whole = np.arange(1, len(ordered) + 1)[None]
    return Percentiles(_take(ordered, whole, shares)[0], np.concatenate(draws))


def _take(ordered: np.ndarray, counts: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Per row of cumulated counts [B, R], the first value that reaches each share of them: [B, Q]."""
    # A hair below the rank, so that 50 % of 4 is the second whatever 0.5 * 4 rounds to.
    ranks = np.maximum(counts[:, -1:] * shares - 1e-9, 1e-9)
    places = [np.searchsorted(row, wanted) for row, wanted in zip(counts, ranks, strict=True)]
    return ordered[np.minimum(np.stack(places), len(ordered) - 1)]
