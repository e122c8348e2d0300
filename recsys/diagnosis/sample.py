"""A teacher on a sample: is it better than what is there, before all rows are ranked?

Legend: S rows, K candidates.
"""

import numpy as np

from recsys.data.prepared import PreparedDataset
from recsys.signals.signals import TeacherSignals

DEPTH = 10  # of NDCG@10


def rank_by_signals(
    signals: TeacherSignals, dataset: PreparedDataset, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Those of `rows` that the signals hold, and the rank of their targets in the teacher's lists, items of the user's
    past left out: [S] each, infinite for a target that is not in its list or lies in the past.

    A list that names the past may hold less than ten others, which counts against the teacher.
    """
    place = signals.lookup(len(dataset.items))[rows]
    found = rows[place >= 0]
    items = signals.items[place[place >= 0]].astype(np.int64)
    size = dataset.num_items + 1
    which, seen = dataset.past(found)
    cells = np.arange(len(found))[:, None] * size + items
    new = ~np.isin(cells, which * size + seen)
    hit = (items == dataset.targets(found)[:, None]) & new
    rank = (np.cumsum(new, axis=1) * hit).sum(axis=1).astype(np.float64)
    rank[~hit.any(axis=1)] = np.inf
    return found, rank
