"""Ranking metrics from the rank of the one true item of each row, by full ranking.

Every metric is a mean over all rows (the denominator is the number of rows, found or not).
"""

import numpy as np

HR_CUTOFFS = (1, 5, 10, 20)
NDCG_CUTOFFS = (5, 10, 20)


def metrics_from_ranks(ranks: np.ndarray) -> dict[str, float]:
    """HR@{1,5,10,20}, NDCG@{5,10,20} and MRR.

    Args:
        ranks: [R] ranks of the targets, 1 is best; N + 1 for one that cannot be found.

    With one relevant item per row, HR@k = mean(rank ≤ k), NDCG@k = mean(1/log2(rank+1) where rank ≤ k),
    MRR = mean(1/rank).
    """
    ranks = np.asarray(ranks, dtype=np.float64)
    assert ranks.size and ranks.min() >= 1, "ranks start at 1 and there is at least one row"
    metrics = {f"hr@{k}": float(np.mean(ranks <= k)) for k in HR_CUTOFFS}
    metrics |= {f"ndcg@{k}": float(np.mean(gains(ranks, k))) for k in NDCG_CUTOFFS}
    metrics["mrr"] = float(np.mean(1 / ranks))
    return metrics


def gains(ranks: np.ndarray, k: int) -> np.ndarray:
    """NDCG@k of each row, [R]."""
    ranks = np.asarray(ranks, dtype=np.float64)
    return np.where(ranks <= k, 1 / np.log2(ranks + 1), 0.0)
