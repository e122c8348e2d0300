"""How long after the item before an item was met, for models that look at it.

Legend: B batch, L history, H width of the decoder.
"""

import torch
from torch import Tensor, nn

from recsys.histories import UNKNOWN_TIME

MAGNITUDES = 36  # the last one is 2³⁴ seconds, some centuries
_HIDDEN = 0.1  # of the histories in training


def seconds_since_the_one_before(times: Tensor) -> Tensor:
    """[B, L] → [B, L]; −1 where it is not known: at the first item, and beside an unknown time."""
    before, after = times[:, :-1], times[:, 1:]
    known = (before != UNKNOWN_TIME) & (after != UNKNOWN_TIME)
    gaps = torch.where(known, (after - before).clamp_min(0), -1)
    return torch.cat([torch.full_like(times[:, :1], -1), gaps], dim=1)


def to_magnitudes(gaps: Tensor) -> Tensor:
    """The order of magnitude of some seconds, 1 + ⌊log2(1 + seconds)⌋, below `MAGNITUDES`; 0 for −1, not known."""
    magnitude = (gaps.clamp_min(0) + 1).double().log2().floor().long() + 1
    return torch.where(gaps < 0, 0, magnitude.clamp_max(MAGNITUDES - 1))


def forget_some(gaps: Tensor) -> Tensor:
    """[B, …] with those of one history in ten not known, so that a request that has no times is answered by what was
    learned, not by chance."""
    drawn = torch.rand(len(gaps), *[1] * (gaps.dim() - 1), device=gaps.device)
    return torch.where(drawn < _HIDDEN, -1, gaps)


class TimeGaps(nn.Module):
    """A vector for each gap, by its order of magnitude. What is not known is the zero vector."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.vectors = nn.Embedding(MAGNITUDES, width, padding_idx=0)
        nn.init.normal_(self.vectors.weight, std=0.02)
        with torch.no_grad():
            self.vectors.weight[0] = 0

    def forward(self, times: Tensor) -> Tensor:
        """[B, L] int64 seconds → [B, L, H]."""
        gaps = seconds_since_the_one_before(times)
        return self.vectors(to_magnitudes(forget_some(gaps) if self.training else gaps))
