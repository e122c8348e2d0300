"""SASRec: self-attentive sequential recommendation (Kang and McAuley, ICDM 2018).

Legend: B batch, L history, N items, D width, H heads.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recsys.histories import Histories
from recsys.students.config import SASRecConfig
from recsys.students.items import INITIAL_DEVIATION, TableRecommender


class Block(nn.Module):
    """Causal self-attention and a feed-forward net, each behind a layer norm and beside a residual path."""

    def __init__(self, config: SASRecConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.dropout = config.dropout
        self.attention_norm = nn.LayerNorm(config.width)
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.out = nn.Linear(config.width, config.width)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(config.width),
            nn.Linear(config.width, 4 * config.width),
            nn.GELU(),
            nn.Linear(4 * config.width, config.width),
            nn.Dropout(config.dropout),
        )

    def forward(self, x_BLD: Tensor) -> Tensor:
        batch, length, width = x_BLD.shape
        qkv = self.qkv(self.attention_norm(x_BLD)).view(batch, length, 3, self.heads, width // self.heads)
        q_BHLd, k_BHLd, v_BHLd = qkv.permute(2, 0, 3, 1, 4)
        # Padding lies on the right, so the causal mask alone keeps it out of every real position. No dropout inside:
        # on CPU it would rule out the fused kernel and cost more than the attention itself.
        mixed = F.scaled_dot_product_attention(q_BHLd, k_BHLd, v_BHLd, is_causal=True)
        mixed = self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        x_BLD = x_BLD + F.dropout(mixed, self.dropout, self.training)
        return x_BLD + self.feed_forward(x_BLD)


class SASRec(TableRecommender):
    """Item vectors plus positions, through causal blocks."""

    kind = "sasrec"
    Config = SASRecConfig
    config: SASRecConfig

    def __init__(self, config: SASRecConfig, *, num_items: int) -> None:
        super().__init__(config, num_items=num_items)
        self.positions = nn.Parameter(torch.randn(config.max_positions, config.width) * INITIAL_DEVIATION)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.blocks))
        self.norm = nn.LayerNorm(config.width)

    def hidden(self, histories: Histories, vectors: Tensor | None = None) -> Tensor:
        x_BLD = self.read(histories, vectors) + self.positions[: histories.items.shape[1]]
        x_BLD = F.dropout(x_BLD, self.config.dropout, self.training)
        for block in self.blocks:
            x_BLD = block(x_BLD)
        return self.apply_similarity(self.norm(x_BLD))
