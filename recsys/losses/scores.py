"""The student's scores over the catalogue, shared by all losses of a step.

Column j is item j+1; padding has none.

Legend: P positions, N items.
"""

from functools import cached_property

import torch
from torch import Tensor


class CatalogueScores:
    """Logits [P, N], and log softmax of them [P, N], computed once however many losses ask for it.

    At P = 1,500 and N = 12,000 a second normalisation would cost as much again as the whole loss.
    """

    def __init__(self, logits_PN: Tensor) -> None:
        self.logits_PN = logits_PN

    @classmethod
    def of(cls, hidden_PD: Tensor, vectors_ND: Tensor) -> "CatalogueScores":
        """Of what is expected, [P, D], and the item vectors, [N+1, D]."""
        return cls((hidden_PD @ vectors_ND[1:].T).float())

    @cached_property
    def log_probability_PN(self) -> Tensor:
        return torch.log_softmax(self.logits_PN, dim=1)
