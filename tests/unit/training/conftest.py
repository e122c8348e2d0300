"""A small catalogue with structure: users walk along a circle of items, now and then jumping."""

import numpy as np
import pytest

from recsys.data.prepared import Catalogue, PreparedDataset

ITEMS, USERS = 40, 60


@pytest.fixture(scope="session")
def walks() -> PreparedDataset:
    generator = np.random.default_rng(0)
    lengths = generator.integers(4, 25, USERS)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    items = np.concatenate(
        [(generator.integers(ITEMS) + np.cumsum(generator.choice([1, 1, 1, 7], n))) % ITEMS + 1 for n in lengths]
    ).astype(np.int32)
    last = offsets[1:] - 1
    train = np.setdiff1d(np.arange(len(items)), np.concatenate([offsets[:-1], last, last - 1]))
    counts = np.bincount(np.delete(items, np.concatenate([last, last - 1])), minlength=ITEMS + 1)
    return PreparedDataset(
        name="walks",
        source={},
        protocol="leave_one_out",
        max_history=8,
        catalogue=Catalogue(
            item_ids=["", *[f"i{n}" for n in range(1, ITEMS + 1)]],
            titles=["", *[f"Item {n}" for n in range(1, ITEMS + 1)]],
            train_counts=counts.astype(np.int64),
        ),
        user_ids=[f"u{n}" for n in range(USERS)],
        offsets=offsets.astype(np.int64),
        items=items,
        timestamps=np.arange(len(items), dtype=np.int64),
        split_rows={"train": train, "valid": last - 1, "test": last},
    )
