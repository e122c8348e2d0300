"""Sequential rules as a recommender: a sparse row for each item of the history, and the cosine of titles.

Legend: B batch, L history, N items, P rules, W width of the title vectors.
"""

import numpy as np
import torch
from scipy import sparse
from torch import Tensor
from torch.nn import functional as F

from recsys.histories import Histories
from recsys.model import SequentialRecommender
from recsys.rules.config import RulesConfig

RULES_AT_ONCE = 1 << 22
_POPULAR = 1e-3  # by how much the most popular item's part of the spread exceeds the least popular one's


class SequentialRules(SequentialRecommender):
    """score(j | h) = log((1 − s) · share of the counts + s / N) + w · cosine(title of j, titles of h).

    The share is Σ_{i in h} δ^age(i) · rule(i→j) over its sum for all j; the rules are those of `recsys.rules.counts`.
    Of two items without a rule the more popular one's part of s is greater, by at most a thousandth, so that it comes
    first. The second vector of the cosine is the mean of the history's centred title vectors, weighted by δ^age.

    Memory: 8 bytes per rule, 4 W + 12 per item. Time of a history: its items' rules, and N · (W + 1).

    Attributes:
        starts: [N+2] int64; item i's rules are `starts[i]` to `starts[i + 1]`.
        successors: [P] int32, what a rule leads to.
        weights: [P] float32.
        floor: [N+1] float32, the second term of the logarithm.
        titles: [N+1, W] float32, centred, of unit length, zero where there is no title; W is 0 without titles.
    """

    kind = "sequential-rules"
    Config = RulesConfig
    config: RulesConfig
    starts: Tensor
    successors: Tensor
    weights: Tensor
    floor: Tensor
    titles: Tensor

    def __init__(self, config: RulesConfig, *, num_items: int) -> None:
        super().__init__(config, num_items=num_items)
        self.register_buffer("starts", torch.zeros(num_items + 2, dtype=torch.int64))
        self.register_buffer("successors", torch.zeros(config.rules, dtype=torch.int32))
        self.register_buffer("weights", torch.zeros(config.rules))
        self.register_buffer("floor", torch.full((num_items + 1,), config.spread / max(num_items, 1)))
        self.register_buffer("titles", torch.zeros(num_items + 1, config.title_width))

    @classmethod
    def of(
        cls, config: RulesConfig, rules: sparse.csr_array, frequency: np.ndarray, titles: Tensor | None
    ) -> "SequentialRules":
        """From counted rules ([N+1, N+1]), the items' frequencies [N+1] and title vectors (`centre`), or none."""
        from dataclasses import replace

        width = 0 if titles is None else titles.shape[1]
        num_items = rules.shape[0] - 1
        model = cls(replace(config, rules=int(rules.nnz), title_width=width), num_items=num_items)
        model.starts[:] = torch.from_numpy(rules.indptr.astype(np.int64))
        model.successors[:] = torch.from_numpy(rules.indices.astype(np.int32))
        model.weights[:] = torch.from_numpy(rules.data.astype(np.float32))
        ranks = np.unique(frequency[1:], return_inverse=True)[1].reshape(-1)
        tilt = 1 + _POPULAR * ranks / max(ranks.max(initial=0), 1)
        model.floor[1:] = torch.from_numpy(config.spread * tilt / tilt.sum())
        if titles is not None:
            model.titles[:] = titles
        return model.eval()

    @property
    def stored(self) -> int:
        """Numbers kept for serving."""
        return 2 * len(self.weights) + self.titles.numel()

    def item_vectors(self) -> Tensor:
        return self.titles

    def query(self, histories: Histories, titles: Tensor) -> Tensor:
        """[B, W]: the direction of the history's titles, of unit length, by title vectors [N+1, W]."""
        recency = self._recency(histories)[..., None]
        return F.normalize((F.embedding(histories.items, titles) * recency).sum(dim=1), dim=1)

    def scores(self, histories: Histories, vectors: Tensor | None = None) -> Tensor:
        vectors = self.titles if vectors is None else vectors
        scores = self.log_share(histories)
        if self.config.title_weight and self.config.title_width:
            scores.addmm_(self.query(histories, vectors) * self.config.title_weight, vectors.T)
        return scores

    def log_share(self, histories: Histories) -> Tensor:
        """[B, N+1]: the logarithm of what the rules give each item, a probability."""
        return log_share(self.counts(histories), self.floor, self.config.spread)

    def counts(self, histories: Histories) -> Tensor:
        """[B, N+1]: the rules of each history, summed up."""
        items = histories.items
        sizes = self.starts[items + 1] - self.starts[items]
        counts = torch.zeros(len(items), self.num_items + 1, device=items.device)
        ends = sizes.sum(dim=1).cumsum(0)
        begin = 0
        while begin < len(items):
            before = int(ends[begin - 1]) if begin else 0
            end = max(begin + 1, int(torch.searchsorted(ends, before + RULES_AT_ONCE, right=True)))
            self._add(counts[begin:end], histories[begin:end], sizes[begin:end])
            begin = end
        return counts

    def contributions(self, history: Tensor, item: int) -> Tensor:
        """[L] what each item of a history ([L] int64) adds to the counts of another item."""
        ages = torch.arange(len(history) - 1, -1, -1)
        found = torch.zeros(len(history))
        for place, i in enumerate(history.tolist()):
            own = slice(int(self.starts[i]), int(self.starts[i + 1]))
            found[place] = self.weights[own][self.successors[own] == item].sum().cpu()
        return found * self.config.decay**ages

    def _add(self, counts: Tensor, histories: Histories, sizes: Tensor) -> None:
        items, flat = histories.items, sizes.reshape(-1)
        first = torch.repeat_interleave(self.starts[items].reshape(-1) - (flat.cumsum(0) - flat), flat)
        rule = first + torch.arange(len(first), device=first.device)
        row = torch.arange(len(items), device=items.device)[:, None].expand_as(items).reshape(-1)
        cell = torch.repeat_interleave(row * counts.shape[1], flat) + self.successors[rule]
        weight = torch.repeat_interleave(self._recency(histories).reshape(-1), flat) * self.weights[rule]
        counts.view(-1).index_add_(0, cell, weight)

    def _recency(self, histories: Histories) -> Tensor:
        """[B, L] δ^age, 0 at padding."""
        items, lengths = histories.items, histories.lengths
        ages = lengths[:, None] - 1 - torch.arange(items.shape[1], device=items.device)
        return torch.where(ages >= 0, self.config.decay ** ages.clamp_min(0).float(), 0.0)


def log_share(counts: Tensor, floor: Tensor, spread: float) -> Tensor:
    """log((1 − s) · counts / their sum + floor), [B, N+1], computed in place."""
    total = counts.sum(dim=1, keepdim=True)
    return counts.mul_((1 - spread) / torch.where(total > 0, total, 1)).add_(floor).log_()


def centre(vectors: Tensor, known: Tensor) -> Tensor:
    """Title vectors [N+1, W] less the mean of those that are `known` ([N+1] bool), of unit length; the others zero."""
    mean = vectors[known].double().mean(dim=0) if bool(known.any()) else 0
    return torch.where(known[:, None], F.normalize((vectors.double() - mean), dim=1).float(), 0.0)
