"""Softmax over the target and a sample of the catalogue, corrected for what the sample is drawn by.

The normaliser of the softmax is the target's own term and an estimate of all others by importance sampling (Bengio and
Senécal, IEEE Transactions on Neural Networks 2008; the correction of the logits by −log q is that of Yi et al., RecSys
2019):

    −y_t + log( exp(y_t) + Σ_{m: j_m ≠ t} exp(y_{j_m} − log(M q_{j_m})) ),  j_1 … j_M drawn from q.

The estimate is unbiased, so loss and gradient go to those of the whole softmax as M grows; uncorrected, items that are
drawn often would be learned as too unlikely. All positions of a step share the draws: their scores are one product of
matrices, P × M, and M may be thousands.

Legend: P positions with a target, N items, M draws.
"""

import torch
from torch import Tensor, nn

_TICKETS = 2**40  # of all items together


class Proposal(nn.Module):
    """q: items by (training count + 1) ** `popularity`, so that every one can be drawn; 0 makes them all alike.

    Each item has whole tickets in a row, of which one is drawn: integers are not rounded where an engine turns the
    model's numbers into bfloat16. Memory: 8 bytes an item. Time of a draw: log N.

    Args:
        train_counts: [N+1], row 0 padding.
    """

    end: Tensor

    def __init__(self, train_counts: Tensor, popularity: float) -> None:
        super().__init__()
        weight = (train_counts[1:].double() + 1).pow(popularity)
        tickets = (weight / weight.sum() * _TICKETS).round().clamp_min(1).long()
        end = torch.cat([tickets.new_zeros(1), tickets.cumsum(0)])  # where an item's tickets end
        self.total = int(end[-1])
        self.register_buffer("end", end, persistent=False)

    def draw(self, count: int) -> tuple[Tensor, Tensor]:
        """Items in 1..N, with replacement, and the logarithm of how often each is expected among them: [M] each."""
        ticket = torch.randint(self.total, (count,), device=self.end.device)
        items = torch.searchsorted(self.end, ticket, right=True)
        share = (self.end[items] - self.end[items - 1]).double() / self.total
        return items, (count * share).log().float()


def sampled_softmax_loss(positive: Tensor, negative_PM: Tensor, log_expected_M: Tensor, hits_PM: Tensor) -> Tensor:
    """The loss above, summed over positions.

    Args:
        positive: [P] logits of the targets.
        negative_PM: logits of what was drawn.
        log_expected_M: log(M q) of it (`Proposal.draw`).
        hits_PM: where a position's target was drawn; it does not count against itself.
    """
    positive = positive.float()
    corrected = (negative_PM.float() - log_expected_M).masked_fill(hits_PM, -torch.inf)
    return (torch.cat([positive[:, None], corrected], dim=1).logsumexp(1) - positive).sum()
