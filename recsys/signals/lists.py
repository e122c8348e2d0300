"""A teacher's ranked lists in memory, looked up by row.

Legend: S rows covered, P positions, K candidates.
"""

import numpy as np
import torch
from torch import Tensor, nn

from recsys.data.prepared import PreparedDataset
from recsys.errors import UserError
from recsys.signals.signals import TeacherSignals


class TeacherLists(nn.Module):
    """The first `k` of each list.

    Args:
        name: the section of the configuration that asks for them, for messages.
        scores: keep the scores as well.

    Attributes:
        train_rows: [S] bool, which rows of the signals are training rows.
        coverage: share of the training rows that the signals hold.

    Raises:
        UserError: the lists are shorter, or none is of a training row.
    """

    index: Tensor
    items: Tensor
    scores: Tensor

    def __init__(
        self, signals: TeacherSignals, dataset: PreparedDataset, k: int, *, name: str, scores: bool = True
    ) -> None:
        super().__init__()
        if k > signals.meta.k:
            raise UserError(
                f"{name}.k is {k}, but the teacher signals hold the top {signals.meta.k}; "
                f"lower it, or run infer_teacher with signals.k={k}"
            )
        self._higher_is_better = signals.meta.higher_is_better
        self.train_rows = np.isin(signals.rows, dataset.rows("train"))
        if not self.train_rows.any():
            raise UserError(
                "the teacher signals hold no training row of this dataset; run infer_teacher with train among "
                f"signals.splits, or set {name}=null"
            )
        self.coverage = float(self.train_rows.sum()) / len(dataset.rows("train"))
        self.register_buffer("index", torch.from_numpy(signals.lookup(len(dataset.items))), persistent=False)
        # Views: signals may lie in memory that several processes share.
        self.register_buffer("items", torch.from_numpy(signals.items[:, :k]), persistent=False)
        if scores:
            self.register_buffer("scores", torch.from_numpy(signals.scores[:, :k]), persistent=False)

    def find(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The candidates of each row, best first, [P, K], zeros where it has no signals; its place among the signals,
        [P], -1 for none."""
        index = self.index[rows]
        return self.items[index].long() * (index >= 0)[:, None], index

    def merit(self, index: Tensor) -> Tensor:
        """The scores at some places among the signals, the greater the better: [P, K]."""
        return self.scores[index].float() * (1 if self._higher_is_better else -1)
