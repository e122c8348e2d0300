"""HSTU: hierarchical sequential transduction units (Zhai et al., "Actions speak louder than words", ICML 2024, arXiv
2402.17152, eq. 1-3).

Attention weights are SiLU(q · k + bias) instead of a softmax, so that what is there twice counts twice; a gate takes
the place of the feed-forward net. The bias is learned per block: a number for how many items lie between two, and one
for the order of magnitude of the time between them. As in the authors' code the weights are divided by a constant, here
the longest history. Theirs measures the time to the *next* item, which a request does not tell; here it is to the item
at which the state is. Nor is there a vector for each place beside the bias.

Time and memory of the attention: B × H × L × L scores a block, which no fused kernel spares.

Legend: B batch, L history, D width, H heads.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recsys.decoders.time_gaps import MAGNITUDES, forget_some, to_magnitudes
from recsys.histories import UNKNOWN_TIME, Histories
from recsys.students.config import HSTUConfig
from recsys.students.items import INITIAL_DEVIATION, TableRecommender

_EPSILON = 1e-6  # of the norms: attention weights, and what they sum up, begin small


class Block(nn.Module):
    """Pointwise projection, spatial aggregation and pointwise transformation, beside a residual path."""

    def __init__(self, config: HSTUConfig) -> None:
        super().__init__()
        self.config = config
        self.norm = nn.LayerNorm(config.width, eps=_EPSILON)
        self.uvqk = nn.Linear(config.width, 4 * config.width, bias=False)
        self.mixed_norm = nn.LayerNorm(config.width, eps=_EPSILON)
        self.out = nn.Linear(config.width, config.width)
        self.position_bias = self.time_bias = None
        if config.position_bias:
            self.position_bias = nn.Parameter(torch.randn(config.max_positions) * INITIAL_DEVIATION)
        if config.time_bias:
            self.time_bias = nn.Parameter(torch.randn(MAGNITUDES) * INITIAL_DEVIATION)

    def forward(self, x_BLD: Tensor, behind_LL: Tensor, magnitude_BLL: Tensor | None) -> Tensor:
        """
        Args:
            behind_LL: how many places before the first item the second stands; negative where it comes later.
            magnitude_BLL: of the time between the two (`to_magnitudes`), where it counts.
        """
        u_BLD, *vqk = F.silu(self.uvqk(self.norm(x_BLD))).chunk(4, dim=-1)
        v_BHLd, q_BHLd, k_BHLd = (part.unflatten(-1, (self.config.heads, -1)).transpose(1, 2) for part in vqk)
        scores_BHLL = q_BHLd @ k_BHLd.transpose(-1, -2)
        if self.position_bias is not None:
            scores_BHLL = scores_BHLL + self.position_bias[behind_LL.clamp_min(0)]
        if self.time_bias is not None and magnitude_BLL is not None:
            bias_BLL = F.embedding(magnitude_BLL, self.time_bias[:, None]).squeeze(-1) * (magnitude_BLL > 0)
            scores_BHLL = scores_BHLL + bias_BLL[:, None]
        weights_BHLL = F.silu(scores_BHLL) * (behind_LL >= 0) / self.config.max_positions
        mixed_BLD = self.mixed_norm((weights_BHLL @ v_BHLd).transpose(1, 2).flatten(2))
        return x_BLD + self.out(F.dropout(u_BLD * mixed_BLD, self.config.dropout, self.training))


class HSTU(TableRecommender):
    """Item vectors through blocks that know places and times by their differences alone."""

    kind = "hstu"
    Config = HSTUConfig
    config: HSTUConfig

    def __init__(self, config: HSTUConfig, *, num_items: int) -> None:
        super().__init__(config, num_items=num_items)
        self.uses_times = config.time_bias
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.blocks))
        self.norm = nn.LayerNorm(config.width, eps=_EPSILON)

    def hidden(self, histories: Histories, vectors: Tensor | None = None) -> Tensor:
        x_BLD = F.dropout(self.read(histories, vectors), self.config.dropout, self.training)
        place = torch.arange(x_BLD.shape[1], device=x_BLD.device)
        behind_LL = place[:, None] - place
        magnitude_BLL = None
        if self.uses_times and histories.times is not None:
            gaps = seconds_between(histories.times)
            magnitude_BLL = to_magnitudes(forget_some(gaps) if self.training else gaps)
        for block in self.blocks:
            x_BLD = block(x_BLD, behind_LL, magnitude_BLL)
        return self.apply_similarity(self.norm(x_BLD))


def seconds_between(times: Tensor) -> Tensor:
    """[B, L] → [B, L, L]: how long after the second item the first was met; −1 where that is not known."""
    known = times != UNKNOWN_TIME
    gaps = (times[:, :, None] - times[:, None, :]).clamp_min(0)
    return torch.where(known[:, :, None] & known[:, None, :], gaps, -1)
