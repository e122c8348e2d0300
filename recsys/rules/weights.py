"""Choosing the weights of a score's terms on validation.

Legend: B batch, L history, R rows, N items, C candidates.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from recsys.data.prepared import PreparedDataset
from recsys.evaluation.metrics import gains
from recsys.evaluation.ranking import mask_past
from recsys.histories import Histories

Terms = Callable[[Histories], Sequence[Tensor]]
"""Histories → terms [B, N+1] of the score, which may be written into."""


@torch.inference_mode()
def weighted_gains(
    terms: Terms,
    dataset: PreparedDataset,
    rows: np.ndarray,
    candidates: Sequence[Sequence[float]],
    *,
    mask_seen: bool = True,
    batch: int = 256,
) -> list[float]:
    """Mean NDCG@10 over rows, full ranking, of the first term plus each candidate's weights times the others: [C].

    Every row is scored once; memory is a few times batch · N.

    Args:
        mask_seen: leave out the items of the user's past.
    """
    total = np.zeros(len(candidates))
    for begin in range(0, len(rows), batch):
        chosen = rows[begin : begin + batch]
        first, *others = terms(Histories.of_rows(dataset, chosen))
        target = torch.from_numpy(dataset.targets(chosen).astype(np.int64))[:, None]
        if mask_seen:
            mask_past(first, dataset, chosen)
        first[:, 0] = -torch.inf
        findable = first.gather(1, target)[:, 0] > -torch.inf  # a target of the past is never recommended
        for number, weights in enumerate(candidates):
            scores = first
            for weight, term in zip(weights, others, strict=True):
                if weight:
                    scores = torch.add(scores, term, alpha=weight)
            rank = (scores >= scores.gather(1, target)).sum(dim=1)
            total[number] += gains(rank[findable].numpy(), 10).sum()
    return (total / len(rows)).tolist()
