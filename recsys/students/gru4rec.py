"""GRU4Rec: session-based recommendation with recurrent networks (Hidasi et al., ICLR 2016).

Legend: B batch, L history, N items, D width.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from recsys.histories import Histories
from recsys.students.config import GRU4RecConfig
from recsys.students.items import TableRecommender


class GRU4Rec(TableRecommender):
    """Item vectors through a GRU."""

    kind = "gru4rec"
    Config = GRU4RecConfig
    config: GRU4RecConfig

    def __init__(self, config: GRU4RecConfig, *, num_items: int) -> None:
        super().__init__(config, num_items=num_items)
        self.gru = nn.GRU(
            config.width,
            config.width,
            config.layers,
            batch_first=True,
            dropout=config.dropout if config.layers > 1 else 0.0,
        )
        self.out = nn.Linear(config.width, config.width)

    def hidden(self, histories: Histories, vectors: Tensor | None = None) -> Tensor:
        x_BLD = F.dropout(self.read(histories, vectors), self.config.dropout, self.training)
        x_BLD, _ = self.gru(x_BLD)
        return self.apply_similarity(self.out(F.dropout(x_BLD, self.config.dropout, self.training)))
