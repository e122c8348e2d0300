"""A checkpoint that recommends: catalogue ids in, catalogue ids out, plain Python."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from recsys.checkpoint import Checkpoint, load_checkpoint
from recsys.errors import UserError


@dataclass(frozen=True)
class Recommendation:
    """The answer for one history.

    Attributes:
        items: catalogue ids, best first.
        scores: the model's scores (logits), or training counts where `fallback` is set.
        unknown: ids of the history that the catalogue does not hold; they were ignored.
        fallback: no id of the history was known, so these are the most popular items.
    """

    items: list[str]
    scores: list[float]
    unknown: list[str]
    fallback: bool


class Recommender:
    """A loaded model with its catalogue: the same class for teachers and students.

    >>> Recommender.load("runs/demo/students/sasrec-distilled").recommend([["50", "172"]], k=10)  # doctest: +SKIP
    [['174', '181', ...]]
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.catalogue = checkpoint.catalogue
        self._model = checkpoint.model
        self._device = next(checkpoint.model.parameters()).device
        self._popular = self.catalogue.popular()
        with torch.inference_mode():
            # Once for all requests: a teacher computes them from its texts.
            self._item_vectors = self._model.item_vectors()
            self._score_vectors = self._item_vectors.float().T
        if not bool(torch.isfinite(self._item_vectors).all()):
            raise UserError("the checkpoint's item vectors are not all finite; train it again")

    @classmethod
    def load(cls, path: str | Path, device: str = "cpu") -> "Recommender":
        """Load a checkpoint directory or URI.

        Raises:
            UserError: it is missing, incomplete or damaged.
        """
        return cls(load_checkpoint(path, device))

    def recommend(self, histories: Sequence[Sequence[str]], k: int = 10, *, mask_seen: bool = True) -> list[list[str]]:
        """The `k` best items for each history (catalogue ids, oldest first), as catalogue ids, best first."""
        return [answer.items for answer in self.rank(histories, k, mask_seen=mask_seen)]

    def rank(self, histories: Sequence[Sequence[str]], k: int = 10, *, mask_seen: bool = True) -> list[Recommendation]:
        """`recommend` with scores and with what was ignored.

        Args:
            mask_seen: never recommend an item of the history. Fewer than k items are returned only where the
                catalogue has fewer left.

        Raises:
            UserError: k is not within 1..N, or a history is empty.
        """
        if not 1 <= k <= len(self.catalogue):
            raise UserError(f"k must be between 1 and {len(self.catalogue)}, the size of the catalogue (got {k})")
        index = self.catalogue.index
        known = [[index[i] for i in history if i in index] for history in histories]
        for history in histories:
            if not history:
                raise UserError("a history is empty; give at least one item id")
        scored = [row for row, history in enumerate(known) if history]
        best, values = self._top_k([known[row] for row in scored], k, mask_seen) if scored else ([], [])
        answers: dict[int, tuple[list[int], list[float]]] = dict(
            zip(scored, zip(best, values, strict=True), strict=True)
        )
        results = []
        for row, history in enumerate(histories):
            unknown = [i for i in history if i not in index]
            fallback = row not in answers
            if fallback:
                items = self._popular[:k].tolist()
                scores = self.catalogue.train_counts[items].astype(float).tolist()
            else:
                items, scores = answers[row]
            ids = [self.catalogue.item_ids[i] for i in items]
            results.append(Recommendation(items=ids, scores=scores, unknown=unknown, fallback=fallback))
        return results

    def titles(self, item_ids: Sequence[str]) -> list[str]:
        return [self.catalogue.titles[self.catalogue.index[i]] for i in item_ids]

    @torch.inference_mode()
    def _top_k(self, histories: list[list[int]], k: int, mask_seen: bool) -> tuple[list[list[int]], list[list[float]]]:
        limit = self.checkpoint.max_history
        recent = [history[-limit:] for history in histories]
        lengths = torch.tensor([len(history) for history in recent], device=self._device)
        items = torch.zeros(len(recent), int(lengths.max()), dtype=torch.int64)
        for row, history in enumerate(recent):
            items[row, : len(history)] = torch.tensor(history)
        scores = self._model.query(items.to(self._device), lengths, self._item_vectors).float() @ self._score_vectors
        scores[:, 0] = -torch.inf
        if mask_seen:
            for row, history in enumerate(histories):
                scores[row, history] = -torch.inf
        values, best = scores.topk(k, dim=1)
        finite = np.isfinite(values.cpu().numpy()).sum(axis=1)
        return (
            [row[:n] for row, n in zip(best.tolist(), finite, strict=True)],
            [row[:n] for row, n in zip(values.tolist(), finite, strict=True)],
        )
