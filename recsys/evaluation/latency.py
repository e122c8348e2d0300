"""How long a model takes for one history: all models in one run, so that a busy moment hits all."""

import time
from collections.abc import Mapping

import numpy as np
import torch

from recsys.data.prepared import PreparedDataset
from recsys.evaluation.ranking import Scorer
from recsys.histories import Histories

_K = 10
_WARM_UP = 5


@torch.inference_mode()
def time_single_requests(
    scorers: Mapping[str, Scorer],
    dataset: PreparedDataset,
    rows: np.ndarray,
    *,
    requests: int,
    seed: int = 0,
    device: str = "cpu",
) -> dict[str, dict[str, float]]:
    """Milliseconds from one history of item indices to its 10 best items, one thread, one history at a time.

    Every history goes to every model, in an order drawn anew each time: whoever comes after a model that leaves the
    processor's caches full of its own is slower.

    Args:
        rows: [R] rows to draw the histories from.
        requests: timed requests per model, after a few that are not timed.

    Returns:
        name → {"median_ms", "p95_ms", "requests"}.
    """
    generator = np.random.default_rng(seed)
    drawn = generator.choice(rows, size=requests + _WARM_UP)
    histories = Histories.of_rows(dataset, drawn)
    times: dict[str, list[float]] = {name: [] for name in scorers}
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for number in range(len(drawn)):
            history = histories[number : number + 1].trim().to(device)
            for name in generator.permutation(list(scorers)):
                started = time.perf_counter()
                scores = scorers[name](history).clone()
                scores[:, 0] = -torch.inf
                scores[0, history.items[0]] = -torch.inf
                scores.topk(min(_K, dataset.num_items)).indices.tolist()
                times[name].append(1000 * (time.perf_counter() - started))
    finally:
        torch.set_num_threads(before)
    return {
        name: {
            "median_ms": float(np.median(taken[_WARM_UP:])),
            "p95_ms": float(np.quantile(taken[_WARM_UP:], 0.95)),
            "requests": float(requests),
        }
        for name, taken in times.items()
    }
