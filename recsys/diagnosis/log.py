"""What a log says before anything is trained: how far memory alone gets, and what it leaves to learn.

The questions are the three shortcuts of arXiv 2605.07125: an item has few successors, successors resemble their item,
and little more than the latest items is needed. Where they hold, counting is hard to beat, and whoever beats it need
not have understood anything.

Only the events that training may see are counted, and only validation rows are predicted.

Legend: T training events, N items, R rows, W width of the title vectors.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import sparse
from torch import Tensor

from recsys.data.prepared import PreparedDataset
from recsys.evaluation.metrics import gains
from recsys.evaluation.ranking import find_seen_targets
from recsys.evaluation.statistics import paired_bootstrap
from recsys.rules.counts import Counts, Events, follows, history_weights, rank_by_counts

CUTOFFS = (1, 5, 10, 20, 50, 100)
_OFTEN = 5  # an item with fewer successions says nothing of how many successors it has
_BINS = np.linspace(-1, 1, 41)
_AT_ONCE = 1024


def measure_successors(dataset: PreparedDataset) -> dict[str, Any]:
    """How few items follow an item directly.

    Returns:
        successions, items: pairs of consecutive events, and items that have at least 5 of them;
        distinct: quantiles of these items' numbers of different successors, and of these per succession;
        entropy: mean entropy of their successors in bits, and the most it could be, the logarithm of their successions;
        again: the probability that two successions of an item lead to the same item (without the bias that an entropy
        of few observations has), the same for any two successions of the log, and how many times as likely the first
        is;
        histogram: upper bound → share of the items with so many different successors.
    """
    pairs = follows(Events.of(dataset), 1, 0.0)
    counts = pairs.data
    item = np.repeat(np.arange(pairs.shape[0]), np.diff(pairs.indptr))
    total, distinct = np.bincount(item, counts, pairs.shape[0]), np.diff(pairs.indptr)
    often = total >= _OFTEN
    entropy = np.log2(np.maximum(total, 1)) - np.bincount(item, counts * np.log2(counts), pairs.shape[0]) / np.maximum(
        total, 1
    )
    agreeing, possible = np.bincount(item, counts * (counts - 1), pairs.shape[0]), total * (total - 1)
    again = _share(agreeing[total > 1] / possible[total > 1], total[total > 1])
    popular, everything = np.asarray(pairs.sum(axis=0)).reshape(-1), total.sum()
    chance = float((popular * (popular - 1)).sum() / max(everything * (everything - 1), 1))
    bounds = [2**power for power in range(max(int(distinct.max(initial=1)) - 1, 0).bit_length() + 1)]
    place = np.searchsorted(bounds, distinct[often])
    return {
        "successions": int(everything),
        "items": int(often.sum()),
        "distinct": _quantiles(distinct[often]),
        "distinct_per_succession": _quantiles(distinct[often] / total[often]),
        "entropy": {
            "bits": _share(entropy[often], total[often]),
            "most": _share(np.log2(total[often]), total[often]),
        },
        "again": {"of_an_item": again, "of_any": chance, "times": again / chance if chance else None},
        "histogram": {
            str(bound): float((place == number).mean()) if often.any() else 0.0 for number, bound in enumerate(bounds)
        },
    }


def measure_resemblance(dataset: PreparedDataset, titles: Tensor, known: np.ndarray, pairs: int) -> dict[str, Any]:
    """How much an item's title resembles that of the item before it, against items that are as popular.

    Args:
        titles: [N+1, W] of unit length, centred (`recsys.rules.model.centre`).
        known: [N+1] bool, items that have a title.
        pairs: how many are drawn.

    Returns:
        pairs; mean cosine of successors and of strangers, the same items paired anew; above: the probability that a
        successor's cosine exceeds a stranger's (0.5 where titles say nothing); histograms over 40 bins from −1 to 1.
    """
    events = Events.of(dataset)
    same_user = events.users[1:] == events.users[:-1]
    before, after = events.items[:-1][same_user], events.items[1:][same_user]
    usable = np.flatnonzero((before != after) & known[before] & known[after])
    generator = np.random.default_rng(0)
    if len(usable) > pairs:
        usable = np.sort(generator.choice(usable, pairs, replace=False))
    if not len(usable):
        return {"pairs": 0}
    before, after = before[usable], after[usable]
    stranger = generator.permutation(after)
    apart = before != stranger
    vectors = titles.numpy()
    near = np.einsum("pw,pw->p", vectors[before], vectors[after])
    far = np.einsum("pw,pw->p", vectors[before[apart]], vectors[stranger[apart]])
    ordered = np.sort(far)
    above = (np.searchsorted(ordered, near, "left") + np.searchsorted(ordered, near, "right")) / 2
    return {
        "pairs": len(near),
        "cosine": {"successors": float(near.mean()), "strangers": float(far.mean())},
        "above": float(above.mean() / max(len(far), 1)),
        "histogram": {
            name: (np.histogram(values.clip(-1, 1), _BINS)[0] / max(len(values), 1)).tolist()
            for name, values in (("successors", near), ("strangers", far))
        },
    }


def measure_history(
    dataset: PreparedDataset, counts: Counts, rows: np.ndarray, latest: Sequence[int], *, samples: int
) -> dict[str, Any]:
    """How well counting ranks the true next item from the latest items alone.

    Args:
        counts: fitted, its constants chosen for whole histories.
        rows: [R] to predict.
        latest: numbers of items; all that a model is shown are tried as well.
        samples: of the bootstrap over users.

    Returns:
        tries: one for each number (None for all) with NDCG@10, its interval, what whole histories have above it with
        an interval, and HR@k by k; reach: share of the rows whose target counting ranks at all, from whole histories:
        more than these it can never find.
    """
    rules, users = counts.rules(), dataset.users_of(rows)
    whole = gains(ranks := _rank(dataset, counts, rules, rows, None), 10)
    tries = []
    for number in (*(n for n in latest if n < dataset.max_history), None):
        found = ranks if number is None else _rank(dataset, counts, rules, rows, number)
        tries.append(
            {
                "latest": number,
                "ndcg@10": describe_interval(gains(found, 10), np.zeros(len(rows)), users, samples),
                "more_by_all": describe_interval(whole, gains(found, 10), users, samples),
                "hr": {str(k): float((found <= k).mean()) for k in CUTOFFS},
            }
        )
    return {"tries": tries, "reach": float(np.isfinite(ranks).mean())}


def measure_targets(dataset: PreparedDataset, rows: np.ndarray) -> dict[str, Any]:
    """Where the true next items stand to the history: each row is of the first kind that fits.

    Returns:
        kinds: share of the rows whose target is `cold` (never seen in training), a `repeat` of the user's past, a
        `direct` successor of the last item in somebody's sequence, two `hops` away, or `further`;
        reach: mean share of the catalogue that is as near (`direct`, `hops`): what chance would find;
        seldom: share of rows whose target training has seen fewer than 5 times, and of items likewise.
    """
    pairs = follows(Events.of(dataset), 1, 0.0)
    step = sparse.csr_array((np.ones(len(pairs.data)), pairs.indices, pairs.indptr), shape=pairs.shape)
    targets, last = dataset.targets(rows), dataset.items[rows - 1]
    near, reach = (
        {"direct": np.zeros(len(rows), bool), "hops": np.zeros(len(rows), bool)},
        dict.fromkeys(("direct", "hops"), 0),
    )
    for begin in range(0, len(rows), _AT_ONCE):
        batch = slice(begin, begin + _AT_ONCE)
        one = step[last[batch]]
        for name, found in (("direct", one), ("hops", sparse.csr_array(one + one @ step))):
            which = np.repeat(np.arange(found.shape[0]), np.diff(found.indptr))
            near[name][begin + which[found.indices == targets[batch][which]]] = True
            reach[name] += int(found.nnz)
    count = dataset.catalogue.train_counts
    kinds, left = {}, np.ones(len(rows), bool)
    for name, fits in (
        ("cold", count[targets] == 0),
        ("repeat", find_seen_targets(dataset, rows)),
        ("direct", near["direct"]),
        ("hops", near["hops"]),
        ("further", left),
    ):
        kinds[name] = float((left & fits).mean())
        left = left & ~fits
    return {
        "kinds": kinds,
        "reach": {name: number / (len(rows) * dataset.num_items) for name, number in reach.items()},
        "seldom": {"rows": float((count[targets] < _OFTEN).mean()), "items": float((count[1:] < _OFTEN).mean())},
    }


def describe_interval(a: np.ndarray, b: np.ndarray, users: np.ndarray, samples: int) -> dict[str, float]:
    """Mean of a − b with its 95 % bootstrap interval over users."""
    interval = paired_bootstrap(a, b, users, samples=samples)
    return {"mean": interval.difference, "low": interval.low, "high": interval.high}


def _rank(
    dataset: PreparedDataset, counts: Counts, rules: sparse.csr_array, rows: np.ndarray, latest: int | None
) -> np.ndarray:
    return rank_by_counts(history_weights(dataset, rows, counts.config.decay, latest), rules, dataset, rows)


def _share(values: np.ndarray, weights: np.ndarray) -> float:
    return float((values * weights).sum() / weights.sum()) if weights.sum() else 0.0


def _quantiles(values: np.ndarray) -> dict[str, float]:
    found = np.quantile(values, (0.1, 0.5, 0.9)) if len(values) else np.zeros(3)
    return dict(zip(("low", "median", "high"), found.tolist(), strict=True))
