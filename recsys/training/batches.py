"""What objectives learn from, step by step.

Legend: B batch, L history.
"""

from collections.abc import Iterator
from typing import Protocol

from torch import Tensor

from recsys.histories import Histories

Batch = dict[str, Tensor]
"""What an objective's `batches` yield; those of `Windows`: items [B, L], targets [B, L] (0: no loss here), rows [B, L]
(offset of the target, -1: none) and, for a model that uses them, times [B, L] of the items, all int64."""


def histories_of(batch: Batch) -> Histories:
    """What a batch of `Windows` reads."""
    return Histories.of(batch["items"], batch.get("times"))


class Batches(Protocol):
    """Seeded batches; every process cuts the same ones and takes its share of each."""

    def epoch(self, epoch: int) -> Iterator[tuple[Batch, float]]:
        """This process's part of each batch, and what the sums over the whole batch, all processes together, are
        divided by: its number of targets, or the mean number of an epoch's batches."""
