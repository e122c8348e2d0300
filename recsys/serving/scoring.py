"""How a catalogue is scored: in full precision, or by int8 first.

Legend: B batch, N items, C candidates, D width.
"""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from recsys.errors import UserError
from recsys.histories import Histories
from recsys.model import CausalRecommender, SequentialRecommender
from recsys.serving.assignment import Scoring
from recsys.serving.memory import allocate
from recsys.serving.top_k import find_at_least, top_k

LEVELS = 127
SHARE = 16
"""Where more than the 16th part of the catalogue is left, scoring all of it takes no longer than picking it out."""

_LEFT_OUT = torch.iinfo(torch.int32).min
_ROWS = 2**16


class Scores(Protocol):
    """What a model says of the catalogue after each of some histories."""

    def leave_out(self, row: int, items: Tensor) -> None:
        """Never name these items ([C] int64) after a history."""

    def best(self, row: int, k: int, among: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The k best items after a history, [K] int64, and their scores, [K] float32, best first, equal ones by their
        number; fewer where no more may be named.

        Args:
            among: the items to choose from, ascending; None is all.
        """

    def best_of_all(self, k: int) -> list[tuple[Tensor, Tensor]]:
        """`best` after every history."""


class FullScores:
    """Every item's score.

    Args:
        scores_BN: [B, N+1] float32, as of `SequentialRecommender.scores`; what is left out is written into it.
    """

    def __init__(self, scores_BN: Tensor) -> None:
        self._scores = scores_BN
        self._scores[:, 0] = -torch.inf

    def leave_out(self, row: int, items: Tensor) -> None:
        self._scores[row, items] = -torch.inf

    def best(self, row: int, k: int, among: Tensor | None = None) -> tuple[Tensor, Tensor]:
        scores_C = self._scores[row] if among is None else self._scores[row, among]
        values, places = top_k(scores_C[None], min(k, len(scores_C)))
        finite = torch.isfinite(values[0])
        items = places[0, finite]
        return (items if among is None else among[items]), values[0, finite]

    def best_of_all(self, k: int) -> list[tuple[Tensor, Tensor]]:
        values, items = top_k(self._scores, k)
        counts = torch.isfinite(values).sum(dim=1).tolist()
        return [(items[row, :count], values[row, :count]) for row, count in enumerate(counts)]


class Int8Vectors:
    """Item vectors in 8 bits beside those in full precision, to rule out what cannot be among the best.

    With a step b for each dimension, v = b ∘ (w + e) has int8 numbers w, and the query b ∘ q = a p + s has p. By the
    Cauchy-Schwarz inequality the score q·v is within |s| |w| + |b ∘ q| |e| of a p·w, and p·w takes integers alone. What
    comes within twice that of the k-th best p·w is scored in full precision, so the k best are those of full precision
    but for its rounding.

    Args:
        vectors: [N+1, D] on the CPU, finite.

    Raises:
        UserError: this processor's int8 products are not exact (they saturate on some that lack VNNI).
    """

    def __init__(self, vectors: Tensor) -> None:
        self._vectors = vectors
        least, most = vectors.aminmax(dim=0)
        self._steps = (torch.maximum(-least, most).float() / LEVELS).clamp_min(torch.finfo(torch.float32).tiny)
        self._int8 = allocate(vectors.shape, torch.int8)
        self._largest_error = self._longest = 0.0
        for begin in range(0, len(vectors), _ROWS):
            exact = vectors[begin : begin + _ROWS].float() / self._steps
            rounded = exact.round()
            self._int8[begin : begin + _ROWS] = rounded.to(torch.int8)
            self._largest_error = max(self._largest_error, float((exact - rounded).norm(dim=1).max()))
            self._longest = max(self._longest, float(rounded.norm(dim=1).max()))
        ones = torch.full((1, vectors.shape[1]), LEVELS, dtype=torch.int8)
        if not torch.equal(self._multiply(ones)[0], LEVELS * self._int8.sum(dim=1, dtype=torch.int32)):
            raise UserError("this processor's int8 products are not exact; set serving.scoring=exact")

    def score(self, query_BD: Tensor) -> "Int8Scores":
        """
        Args:
            query_BD: of which the dot products with the vectors are the scores.
        """
        query = query_BD.float()
        scaled = query * self._steps
        step = (scaled.abs().amax(dim=1, keepdim=True) / LEVELS).clamp_min(torch.finfo(torch.float32).tiny)
        rounded = (scaled / step).round()
        error = (scaled / step - rounded).norm(dim=1) * self._longest
        error += (scaled / step).norm(dim=1) * self._largest_error
        # One percent and one more, for what floating point rounds.
        margins = [int(2.02 * one) + 2 for one in error.tolist()]
        return Int8Scores(self._vectors, query, self._multiply(rounded.to(torch.int8)), margins)

    def _multiply(self, query_BD: Tensor) -> Tensor:
        """[B, N+1] int32."""
        return torch._int_mm(query_BD, self._int8.T)


class Int8Scores:
    """Every item's score roughly, and those of the best exactly.

    Args:
        rough_BN: [B, N+1] int32; what is left out is written into it.
        margins: of each history: an item whose rough score is lower than another's by more has a lower score.
    """

    def __init__(self, vectors: Tensor, query_BD: Tensor, rough_BN: Tensor, margins: list[int]) -> None:
        self._vectors = vectors
        self._query = query_BD
        self._rough = rough_BN
        self._rough[:, 0] = _LEFT_OUT
        self._margins = margins

    def leave_out(self, row: int, items: Tensor) -> None:
        self._rough[row, items] = _LEFT_OUT

    def best(self, row: int, k: int, among: Tensor | None = None) -> tuple[Tensor, Tensor]:
        rough_C = self._rough[row] if among is None else self._rough[row, among]
        if not len(rough_C):
            return rough_C.long(), rough_C.float()
        least = int(top_k(rough_C[None], min(k, len(rough_C)))[0][0, -1]) - self._margins[row]
        items = find_at_least(rough_C, max(least, _LEFT_OUT + 1))
        items = items if among is None else among[items]
        if len(items) * SHARE > len(self._vectors):
            values = (self._vectors.float() @ self._query[row])[items]
        else:
            values = self._vectors[items].float() @ self._query[row]
        scores, order = top_k(values[None], min(k, len(values)))
        return items[order[0]], scores[0]

    def best_of_all(self, k: int) -> list[tuple[Tensor, Tensor]]:
        return [self.best(row, k) for row in range(len(self._rough))]


def build_scorer(model: SequentialRecommender, vectors: Tensor, scoring: Scoring) -> Callable[[Histories], Scores]:
    """What scores the catalogue after histories.

    Args:
        vectors: `model.item_vectors()`.

    Raises:
        UserError: int8 is asked for where the scores are no dot products with vectors, or not on a CPU.
    """
    if scoring == "exact":
        return lambda histories: FullScores(model.scores(histories, vectors))
    if not isinstance(model, CausalRecommender):
        raise UserError(
            f"scoring=int8 needs scores that are products of vectors, which those of a {model.kind} are not; set "
            "scoring=exact"
        )
    if vectors.device.type != "cpu":
        raise UserError("scoring=int8 is for the CPU; on a GPU set scoring=exact")
    table = Int8Vectors(vectors.detach())
    return lambda histories: table.score(model.query(histories, vectors))
