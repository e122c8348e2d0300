"""What unit tests share: one thread (tiny tensors gain nothing from more, and busy machines lose much), tiny data."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from recsys.data.prepared import Catalogue, PreparedDataset


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def random_dataset() -> Callable[..., PreparedDataset]:
    """Build a leave-one-out dataset of `users` sequences of 3 to `longest` items out of `items`."""

    def build(
        *, users: int = 12, items: int = 60, longest: int = 40, max_history: int = 8, seed: int = 0
    ) -> PreparedDataset:
        generator = np.random.default_rng(seed)
        lengths = generator.integers(3, longest + 1, users)
        lengths[0] = longest
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        sequences = generator.integers(1, items + 1, offsets[-1]).astype(np.int32)
        inner = np.ones(offsets[-1], dtype=bool)
        inner[np.concatenate([offsets[:-1], offsets[1:] - 1, offsets[1:] - 2])] = False
        counts = np.bincount(sequences[inner], minlength=items + 1).astype(np.int64)
        return PreparedDataset(
            name="random",
            source={},
            protocol="leave_one_out",
            max_history=max_history,
            catalogue=Catalogue(
                item_ids=["", *[f"i{n}" for n in range(1, items + 1)]],
                titles=["", *[f"Film number {n}" for n in range(1, items + 1)]],
                train_counts=counts,
            ),
            user_ids=[f"u{n}" for n in range(users)],
            offsets=offsets,
            items=sequences,
            timestamps=np.arange(offsets[-1], dtype=np.int64),
            split_rows={"train": np.flatnonzero(inner), "valid": offsets[1:] - 2, "test": offsets[1:] - 1},
        )

    return build
