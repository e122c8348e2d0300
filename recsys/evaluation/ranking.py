"""Full ranking of the catalogue, in memory bounded by batch_size · N scores whatever the number of rows.

Legend: B batch, L history, N items, R rows.
"""

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from torch import Tensor

from recsys.data.prepared import PreparedDataset
from recsys.histories import Histories
from recsys.model import SequentialRecommender

Scorer = Callable[[Histories], Tensor]
"""Histories → scores [B, N+1], higher is better."""


def model_scorer(model: SequentialRecommender) -> Scorer:
    """Score by the model, its item vectors computed once. The model must stay as it is while the scorer is used."""
    return partial(model.scores, vectors=model.item_vectors().detach())


@torch.inference_mode()
def rank_targets(
    score: Scorer,
    dataset: PreparedDataset,
    rows: np.ndarray,
    *,
    mask_seen: bool,
    batch_size: int = 256,
    device: torch.device | str = "cpu",
) -> np.ndarray:
    """The rank of each row's target among all items, 1 is best; an item that ties with the target ranks before it.

    Args:
        rows: [R] target offsets.
        mask_seen: leave out every item of the user's past (not only the history shown), as a recommender does. A target
            of the past can then never be found: its rank is N + 1, a miss (`find_seen_targets` says where).

    Returns:
        [R] int64.
    """
    ranks = []
    for batch, scores, targets in score_batches(score, dataset, rows, batch_size, device):
        ahead = scores >= scores.gather(1, targets)
        ahead[:, 0] = False
        if mask_seen:
            which, seen = dataset.past(batch)
            ahead[torch.from_numpy(which).to(device), torch.from_numpy(seen).to(device)] = False
        ahead.scatter_(1, targets, True)  # the target itself counts once
        ranks.append(ahead.sum(1).cpu().numpy())
        if mask_seen:
            ranks[-1][find_seen_targets(dataset, batch)] = dataset.num_items + 1
    return np.concatenate(ranks) if ranks else np.empty(0, dtype=np.int64)


def score_batches(
    score: Scorer, dataset: PreparedDataset, rows: np.ndarray, batch_size: int, device: torch.device | str
) -> Iterator[tuple[np.ndarray, Tensor, Tensor]]:
    """Batches of rows with the scores of their histories [B, N+1] and their targets [B, 1] int64.

    Raises:
        FloatingPointError: the model gives NaN scores.
    """
    for begin in range(0, len(rows), batch_size):
        batch = rows[begin : begin + batch_size]
        scores = score(Histories.of_rows(dataset, batch).to(device))
        if torch.isnan(scores[:, 1:]).any():
            raise FloatingPointError("the model gives NaN scores")
        yield batch, scores, torch.from_numpy(dataset.targets(batch).astype(np.int64)).to(device)[:, None]


def mask_past(scores: Tensor, dataset: PreparedDataset, rows: np.ndarray) -> None:
    """Set the scores [B, N+1] of every item of the user's past, of `rows` [B], to −∞ in place."""
    which, seen = (torch.from_numpy(each).to(scores.device) for each in dataset.past(rows))
    scores[which, seen] = -torch.inf


def find_seen_targets(dataset: PreparedDataset, rows: np.ndarray) -> np.ndarray:
    """[R] bool: whether a row's target lies in the user's past."""
    which, seen = dataset.past(rows)
    again = np.zeros(len(rows), dtype=bool)
    again[which[seen == dataset.targets(rows)[which]]] = True
    return again
