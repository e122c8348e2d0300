"""A teacher's item embeddings as students take them."""

import torch
from torch import Tensor


def standardise(embeddings: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Per dimension, and so that an item's vector has a length of about 1: language models' embeddings share large
    constant components that carry no preference.

    Args:
        embeddings: [N+1, Z], row 0 padding.

    Returns:
        [N+1, Z], row 0 zero; and the mean and the scale [Z] that give it, as (embedding − mean) / scale.
    """
    deviation, mean = torch.std_mean(embeddings[1:], dim=0)
    z = embeddings.shape[1]
    scaled = (embeddings - mean) / deviation.clamp_min(1e-6) * z**-0.5
    scaled[0] = 0
    return scaled, mean, deviation.clamp_min(1e-6) * z**0.5
