import math
from collections.abc import Callable

import numpy as np
import torch

from recsys.data.prepared import PreparedDataset
from recsys.diagnosis.sample import rank_by_signals
from recsys.signals.signals import SignalsMeta, TeacherSignals


def test_ranks_are_those_of_a_loop(random_dataset: Callable[..., PreparedDataset]) -> None:
    """Lists may name the past: it is left out, and a target of the past is a miss."""
    dataset = random_dataset(users=60, items=25, longest=12)
    rows = np.sort(np.concatenate([dataset.rows("train"), dataset.rows("valid")[::2]]))
    generator = np.random.default_rng(0)
    items = np.stack([generator.permutation(25)[:12] + 1 for _ in rows]).astype(np.int32)
    meta = SignalsMeta(teacher="t", checkpoint_hash="c", fingerprint=dataset.fingerprint, k=12)
    one = np.ones(len(rows), np.float32)
    signals = TeacherSignals(meta, rows, items, items.astype(np.float32), one, torch.zeros(26, 2), None, None, "h")
    found, ranks = rank_by_signals(signals, dataset, dataset.rows("valid"))
    assert found.tolist() == dataset.rows("valid")[::2].tolist()
    missed = 0
    for row, rank in zip(found.tolist(), ranks.tolist(), strict=True):
        past = dataset.items[dataset.offsets[dataset.users_of(np.array([row]))[0]] : row].tolist()
        target = int(dataset.items[row])
        left = [item for item in items[np.flatnonzero(rows == row)[0]].tolist() if item not in past]
        expected = left.index(target) + 1 if target in left else math.inf
        assert rank == expected
        missed += target in past
    assert missed and np.isfinite(ranks).sum() > 3
