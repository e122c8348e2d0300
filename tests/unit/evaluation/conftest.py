"""Tiny datasets built by hand."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import pytest

from recsys.data.prepared import Catalogue, PreparedDataset

Make = Callable[..., PreparedDataset]


def make_dataset(
    sequences: Sequence[Sequence[int]],
    *,
    num_items: int | None = None,
    timestamps: Sequence[Sequence[int]] | None = None,
    max_history: int = 5,
) -> PreparedDataset:
    """Leave-one-out over sequences of item indices; by default one interaction a day."""
    items = np.concatenate([np.asarray(s, dtype=np.int32) for s in sequences])
    offsets = np.concatenate([[0], np.cumsum([len(s) for s in sequences])]).astype(np.int64)
    times = timestamps or [[86_400 * day for day in range(len(s))] for s in sequences]
    last = offsets[1:] - 1
    train = np.concatenate([np.arange(a + 1, b - 2) for a, b in pairwise(offsets)])
    size = (num_items or int(items.max())) + 1
    seen = np.ones(len(items), dtype=bool)
    seen[np.concatenate([last, last - 1])] = False
    return PreparedDataset(
        name="tiny",
        source={"made": "by hand"},
        protocol="leave_one_out",
        max_history=max_history,
        catalogue=Catalogue(
            item_ids=["", *(f"i{i}" for i in range(1, size))],
            titles=["", *(f"Title {i}" for i in range(1, size))],
            train_counts=np.bincount(items[seen], minlength=size).astype(np.int64),
        ),
        user_ids=[f"u{u}" for u in range(len(sequences))],
        offsets=offsets,
        items=items,
        timestamps=np.concatenate([np.asarray(t, dtype=np.int64) for t in times]),
        split_rows={"train": train, "valid": last - 1, "test": last},
    )


@pytest.fixture
def make() -> Make:
    return make_dataset


@pytest.fixture
def random_dataset() -> PreparedDataset:
    """40 users with 4 to 15 interactions among 25 items, repeats included."""
    generator = np.random.default_rng(7)
    return make_dataset([generator.integers(1, 26, size=n).tolist() for n in generator.integers(4, 16, size=40)])
