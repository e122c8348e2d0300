"""What every recommender reads.

Legend: B batch, L history, R rows.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from recsys.data.prepared import PreparedDataset

UNKNOWN_TIME = -1


@dataclass(frozen=True, slots=True)
class Histories:
    """A batch of histories, each at least one item long.

    Attributes:
        items: [B, L] int64, oldest first, padded with 0 on the right.
        lengths: [B] int64.
        times: [B, L] int64 seconds, when each item was met: `UNKNOWN_TIME` where that is not known, None where it is of
            no item. Only a model that `uses_times` looks.
    """

    items: Tensor
    lengths: Tensor
    times: Tensor | None = None

    @classmethod
    def of(cls, items: Tensor, times: Tensor | None = None) -> "Histories":
        """Of padded items, their lengths counted."""
        return cls(items, (items > 0).sum(dim=1), times)

    @classmethod
    def of_rows(cls, dataset: PreparedDataset, rows: np.ndarray) -> "Histories":
        """What is shown of rows ([R] offsets of targets) of a dataset, L its longest history."""
        items, lengths = dataset.histories(rows)
        return cls(*map(torch.from_numpy, (items, lengths, dataset.history_times(rows))))

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, rows: slice | Tensor) -> "Histories":
        """Some of them."""
        return Histories(self.items[rows], self.lengths[rows], None if self.times is None else self.times[rows])

    def to(self, device: torch.device | str) -> "Histories":
        times = None if self.times is None else self.times.to(device)
        return Histories(self.items.to(device), self.lengths.to(device), times)

    def trim(self) -> "Histories":
        """Without the columns in which all are padding."""
        longest = int(self.lengths.max())
        times = None if self.times is None else self.times[:, :longest]
        return Histories(self.items[:, :longest], self.lengths, times)
