"""InfoNCE with drawn negatives.

Legend: P positions with a target, U items at hand, S drawn ones, N items of the catalogue, D width.
"""

import torch
from torch import Tensor


def info_nce(
    hidden_PD: Tensor,
    vectors_UD: Tensor,
    targets: Tensor,
    drawn: Tensor,
    *,
    num_items: int,
    duplicate_similarity: float | None = None,
) -> Tensor:
    """−log( exp(s_t) / (exp(s_t) + (N−1)/S' Σ_j exp(s_j)) ), summed over positions; j runs over the S' drawn items that
    are not the target, without those that are as good as the target.

    The factor makes the sum an estimate of that over the whole catalogue, whatever S; with all items drawn the loss is
    the softmax cross-entropy over the catalogue. HLLM (arXiv 2409.12740) has none, which changes the loss by little
    where S is near N.

    Args:
        targets: [P], drawn: [S] distinct ones, rows of the vectors.
        duplicate_similarity: an item is as good as the target where the cosine of their vectors, which are of unit
            length then, exceeds this.
    """
    vectors_SD = vectors_UD[drawn]
    positive = (hidden_PD * vectors_UD[targets]).sum(-1, keepdim=True).float()
    negative_PS = (hidden_PD @ vectors_SD.T).float()
    left_out = drawn == targets[:, None]
    count = (~left_out).sum(dim=1, keepdim=True).clamp_min(1)
    raised = negative_PS + torch.log((num_items - 1) / count)
    if duplicate_similarity is not None:
        with torch.no_grad():
            left_out |= vectors_UD[targets] @ vectors_SD.T > duplicate_similarity
    scores = torch.cat([positive, raised.masked_fill(left_out, -torch.inf)], dim=1)
    return (scores.logsumexp(dim=1) - positive[:, 0]).sum()
