"""The formula as loops, in the words of the papers."""

from collections import defaultdict

import numpy as np

from recsys.data.prepared import PreparedDataset
from recsys.data.splits import find_seen_by_training
from recsys.rules.config import RulesConfig


def naive_scores(dataset: PreparedDataset, config: RulesConfig, history: list[int], without: int = -1) -> np.ndarray:
    """[N+1] counts of every item after a history, nothing counted of the user `without`."""
    n: dict[tuple[int, int], float] = defaultdict(float)
    frequency: dict[int, int] = defaultdict(int)
    seen = find_seen_by_training(dataset.offsets, dataset.rows("train"))
    for user in range(dataset.num_users):
        own = slice(dataset.offsets[user], dataset.offsets[user + 1])
        sequence = dataset.items[own][seen[own]].tolist() if user != without else []
        for place, i in enumerate(sequence):
            frequency[i] += 1
            for apart, j in enumerate(sequence[place + 1 : place + 1 + config.window], start=1):
                n[i, j] += 1 / apart**config.distance
    scores = np.zeros(dataset.num_items + 1)
    for age, i in enumerate(reversed(history)):
        for j in range(1, dataset.num_items + 1):
            pair = n[i, j] + config.backward * n[j, i]
            divided = max(frequency[i], 1) ** -config.source * max(frequency[j], 1) ** -config.target
            scores[j] += config.decay**age * pair * divided
    return scores
