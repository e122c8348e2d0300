"""GRU4Rec: session-based recommendation with recurrent networks (Hidasi et al., ICLR 2016).

Legend: B batch, L history, N items, D width.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from recsys.histories import Histories
from recsys.model import CausalRecommender
from recsys.students.config import GRU4RecConfig
from recsys.students.items import ItemTable, comparable, compared, folded


class GRU4Rec(CausalRecommender):
    """Item vectors through a GRU; item vectors are shared by input and output."""

    kind = "gru4rec"
    Config = GRU4RecConfig
    config: GRU4RecConfig

    def __init__(self, config: GRU4RecConfig, *, num_items: int) -> None:
        super().__init__(config, num_items=num_items)
        self.items = ItemTable(num_items, config.width)
        self.gru = nn.GRU(
            config.width,
            config.width,
            config.layers,
            batch_first=True,
            dropout=config.dropout if config.layers > 1 else 0.0,
        )
        self.out = nn.Linear(config.width, config.width)

    def hidden(self, histories: Histories, vectors: Tensor | None = None) -> Tensor:
        table = self.item_vectors() if vectors is None else vectors
        x_BLD = F.embedding(histories.items, table) * self.config.width**0.5
        x_BLD, _ = self.gru(F.dropout(x_BLD, self.config.dropout, self.training))
        return compared(self.out(F.dropout(x_BLD, self.config.dropout, self.training)), self.config)

    def item_vectors(self) -> Tensor:
        return comparable(self.items(), self.config)

    def export_state(self) -> dict[str, Tensor]:
        return folded(self.state_dict(), self.items)
