"""Ranking of the target among sampled negatives, as SLMRec (arXiv 2405.17890) and much older work reports it.

999 negatives of a catalogue of thousands make every metric look several times better than full ranking, and may order
models otherwise; it is here so that published numbers have something to be compared with. Unlike in the authors' code
the negatives of a row are drawn once and for all from (seed, row), and a tie counts against the target.

Legend: B batch, N items, R rows, C negatives.
"""

from typing import Any

import numpy as np
import torch

from recsys.data.prepared import PreparedDataset
from recsys.evaluation.config import SampledConfig
from recsys.evaluation.metrics import metrics_from_ranks
from recsys.evaluation.ranking import Scorer, score_batches


def draw_negatives(dataset: PreparedDataset, row: int, config: SampledConfig) -> np.ndarray:
    """Items that are neither the row's target nor of the user's past, uniformly without replacement, int64.

    There are `config.negatives` of them, fewer where the catalogue has no more.
    """
    taken = np.append(dataset.seen(row), dataset.items[row])
    generator = np.random.default_rng((config.seed, int(row)))
    size = min(dataset.num_items, config.negatives + len(taken))  # enough, even if all that is taken were drawn
    drawn = generator.choice(dataset.num_items, size=size, replace=False) + 1
    return drawn[~np.isin(drawn, taken)][: config.negatives]


@torch.inference_mode()
def rank_sampled(
    score: Scorer,
    dataset: PreparedDataset,
    rows: np.ndarray,
    config: SampledConfig,
    *,
    batch_size: int = 256,
    device: torch.device | str = "cpu",
) -> np.ndarray:
    """The rank of each row's target among its negatives, 1 is best; a negative that ties with it ranks before it.

    Args:
        rows: [R] target offsets.

    Returns:
        [R] int64.

    Raises:
        FloatingPointError: the model gives NaN scores.
    """
    ranks = []
    for batch, scores, targets in score_batches(score, dataset, rows, batch_size, device):
        negatives = np.zeros((len(batch), config.negatives), dtype=np.int64)  # 0 where there is none
        for place, row in enumerate(batch):
            found = draw_negatives(dataset, row, config)
            negatives[place, : len(found)] = found
        drawn = torch.from_numpy(negatives).to(device)
        ahead = (scores.gather(1, drawn) >= scores.gather(1, targets)) & (drawn > 0)
        ranks.append(1 + ahead.sum(1).cpu().numpy())
    return np.concatenate(ranks) if ranks else np.empty(0, dtype=np.int64)


def measure_sampled(
    score: Scorer, dataset: PreparedDataset, rows: np.ndarray, config: SampledConfig, **options: Any
) -> dict[str, float]:
    """HR@1, HR@5, NDCG@5 and MRR among the sampled negatives, means over all rows."""
    metrics = metrics_from_ranks(rank_sampled(score, dataset, rows, config, **options))
    return {name: metrics[name] for name in ("hr@1", "hr@5", "ndcg@5", "mrr")}
