"""From a text to the items nearest to it: vectors of texts by a language model, and L2 distances in bounded memory.

Legend: B rows, N items, K candidates, W width.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from recsys.inference.ranking import best, exclude

_TOKENS = 8192  # of a batch of texts
_ITEMS = 65536  # scored at a time


@torch.inference_mode()
def embed(model: Any, texts: Sequence[Sequence[int]], pooling: Literal["last", "mean", "prompt_eol"]) -> Tensor:
    """[len(texts), W] float32 on the CPU: the last layer at the last token, or its mean over the tokens.

    Args:
        model: the language model's body (its `last_hidden_state` is read).
        texts: tokens, at least one each.
    """
    vectors = torch.empty(len(texts), model.config.hidden_size)
    order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
    while order:
        size = max(1, _TOKENS // len(texts[order[0]]))
        chosen, order = order[:size], order[size:]
        lengths = torch.tensor([len(texts[i]) for i in chosen], device=model.device)
        ids = torch.zeros(len(chosen), int(lengths.max()), dtype=torch.int64)
        for row, i in enumerate(chosen):
            ids[row, : len(texts[i])] = torch.tensor(texts[i])
        inside = torch.arange(ids.shape[1], device=model.device) < lengths[:, None]
        # Padding lies on the right and attention is causal: no position before it can see it.
        hidden = model(input_ids=ids.to(model.device), use_cache=False).last_hidden_state.float()
        if pooling == "mean":
            pooled = (hidden * inside[..., None]).sum(dim=1) / lengths[:, None]
        else:
            pooled = hidden[torch.arange(len(chosen), device=model.device), lengths - 1]
        vectors[chosen] = pooled.cpu()
    return vectors


@torch.inference_mode()
def nearest(
    queries: Tensor,
    items: Tensor,
    k: int,
    *,
    excluded: tuple[Tensor, Tensor] | None = None,
    weights: Tensor | None = None,
    chunk: int = _ITEMS,
) -> tuple[Tensor, Tensor]:
    """The k items nearest to each query, their indices and their distances, [B, K] each, nearest first.

    Memory: B · chunk distances, whatever the catalogue. Items are found by |e|² − 2 q·e; the distances of what is
    returned are computed anew, because that difference is inexact where they are small.

    Args:
        queries: [B, W]; items: [N+1, W], row 0 is left out.
        excluded: pairs (rows, items) that must not be returned.
        weights: [N+1] or [B, N+1]; then the order is that of weight · (distance − the smallest of the row).
    """
    if weights is not None:
        offset, least = queries.square().sum(dim=1, keepdim=True), smallest(queries, items, chunk=chunk)

    def parts() -> Iterator[tuple[int, Tensor]]:
        for begin in range(1, len(items), chunk):
            part = items[begin : begin + chunk]
            order_by = part.square().sum(dim=1) - 2 * (queries @ part.T)
            if weights is not None:
                order_by = ((order_by + offset).clamp_min(0).sqrt() - least) * weights[..., begin : begin + chunk]
            exclude(order_by, excluded, begin, torch.inf)
            yield begin, order_by

    _, index = best(parts(), k, largest=False)
    distances = torch.stack([(items[row] - query).norm(dim=1) for row, query in zip(index, queries, strict=True)])
    if weights is None:
        distances, order = distances.sort(dim=1, stable=True)
        index = index.gather(1, order)
    return index, distances


def smallest(queries: Tensor, items: Tensor, *, chunk: int = _ITEMS) -> Tensor:
    """[B, 1]: each query's distance to the item nearest to it."""
    return nearest(queries, items, 1, chunk=chunk)[1]
