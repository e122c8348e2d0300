"""What an answer may hold besides what the model thinks: ids left out, ids to choose from, filters, variety.

Legend: N items, C candidates, D width of item vectors.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from recsys.data.attributes import Attributes, merge_distinct
from recsys.data.prepared import Catalogue
from recsys.errors import UserError

POOL = 100
"""Candidates of which an answer with variety is chosen: this many, or ten times k; more where caps leave too few."""

Best = Callable[[int], tuple[np.ndarray, np.ndarray]]
"""The n best items that may be recommended, [C] int64, best first, and their scores, [C] float; C < n: no more are."""


@dataclass(frozen=True)
class Candidates:
    """A `Selection` in the numbers of a catalogue.

    Attributes:
        excluded: items (1..N) that are left out.
        allowed: items to choose from, ascending; None is all of them.
        not_found: what the catalogue does not hold: field of the selection → ids or values.
    """

    excluded: np.ndarray
    allowed: np.ndarray | None = None
    at_most: Mapping[str, int] = field(default_factory=dict)
    diversity: float = 0.0
    not_found: Mapping[str, list[str]] = field(default_factory=dict)

    @property
    def simple(self) -> bool:
        """Whether nothing but exclusion is asked for, so that the k best of what is left are the answer."""
        return self.allowed is None and not self.at_most and not self.diversity

    def mask(self, num_items: int) -> np.ndarray:
        """[N+1] bool, which items may be recommended; padding may not."""
        mask = np.full(num_items + 1, self.allowed is None)
        if self.allowed is not None:
            mask[self.allowed] = True
        mask[self.excluded] = mask[0] = False
        return mask


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What may be recommended, and how much of a kind.

    Attributes:
        exclude: ids that are never recommended.
        only: ids to choose from, what is in stock say; None is the whole catalogue, and an empty list leaves nothing.
        where: attribute → values: only items with one of the values, of every attribute that is named.
        at_most: attribute → how many items of an answer may share a value of it; items without a value always may.
        diversity: 0 ranks by the model alone, 1 cares for variety alone: every next item is the one with the largest
            (1 - diversity) · relevance - diversity · similarity to the most similar item before it (maximal marginal
            relevance, Carbonell and Goldstein 1998, with λ = 1 - diversity). Relevance is the score, from 0 to 1 over
            the candidates (`POOL`); similarity is the cosine of the model's item vectors.

    Raises:
        UserError: a number is out of range.
    """

    exclude: Sequence[str] = ()
    only: Sequence[str] | None = None
    where: Mapping[str, Sequence[str]] = field(default_factory=dict)
    at_most: Mapping[str, int] = field(default_factory=dict)
    diversity: float = 0.0

    def __post_init__(self) -> None:
        for name, values in (("exclude", self.exclude), ("only", self.only), *self.where.items()):
            if isinstance(values, str):
                raise UserError(f"{name} is the text {values!r}; give a list, such as [{values!r}]")
        for name, count in self.at_most.items():
            if count < 1:
                raise UserError(f"at_most.{name} must be 1 or more (got {count}); to leave items out, use exclude")
        if not 0 <= self.diversity <= 1:
            raise UserError(f"diversity must be between 0 and 1 (got {self.diversity:g})")

    def find(self, catalogue: Catalogue) -> Candidates:
        """The same in the numbers of a catalogue; ids and values that it does not hold are told, not refused.

        Raises:
            UserError: an attribute is not one of the catalogue's.
        """
        catalogue.attributes.require((*self.where, *self.at_most))
        not_found: dict[str, list[str]] = {}
        excluded, not_found["exclude"] = catalogue.known(self.exclude)
        allowed = None
        if self.only is not None:
            known, not_found["only"] = catalogue.known(self.only)
            allowed = merge_distinct([np.array(known, dtype=np.int64)])
        for name, values in self.where.items():
            items, not_found[f"where.{name}"] = catalogue.attributes.items_with(name, values)
            allowed = items if allowed is None else np.intersect1d(allowed, items, assume_unique=True)
        return Candidates(
            excluded=np.array(excluded, dtype=np.int64),
            allowed=allowed,
            at_most=dict(self.at_most),
            diversity=self.diversity,
            not_found={where: names for where, names in not_found.items() if names},
        )


def choose(
    best: Best,
    k: int,
    candidates: Candidates,
    attributes: Attributes,
    vectors: Callable[[np.ndarray], np.ndarray] | None = None,
) -> tuple[list[int], list[float]]:
    """The k items of an answer in order, and their scores; fewer where no more may be recommended.

    Args:
        vectors: of items, [C] → [C, D]; None where there are none: `diversity` then has no effect.
    """
    varied = bool(candidates.at_most) or (candidates.diversity > 0 and vectors is not None)
    pool = max(POOL, 10 * k) if varied else k
    while True:
        items, scores = best(pool)
        if not varied:
            return items[:k].tolist(), scores[:k].tolist()
        kinds: list[list[tuple[str, str]]] = [
            [(name, value) for name, values in known.items() for value in values]
            for known in attributes.of(items.tolist(), list(candidates.at_most))
        ]
        similar = vectors(items) if candidates.diversity and vectors is not None else None
        chosen = pick(scores, k, kinds=kinds, at_most=candidates.at_most, diversity=candidates.diversity, near=similar)
        if len(chosen) == k or len(items) < pool:
            return items[chosen].tolist(), scores[chosen].tolist()
        pool *= 4


def pick(
    scores_C: np.ndarray,
    k: int,
    *,
    kinds: Sequence[Sequence[tuple[str, str]]],
    at_most: Mapping[str, int],
    diversity: float = 0.0,
    near: np.ndarray | None = None,
) -> list[int]:
    """Places of the k candidates that a greedy choice takes, in its order (see `Selection`).

    Args:
        scores_C: best first.
        kinds: the (attribute, value) pairs of each candidate that are counted.
        near: item vectors [C, D].
    """
    counts: Counter[tuple[str, str]] = Counter()
    chosen: list[int] = []
    for place in _places(scores_C, chosen, diversity, near):
        if any(counts[kind] >= at_most[kind[0]] for kind in kinds[place]):
            continue
        counts.update(kinds[place])
        chosen.append(place)
        if len(chosen) == k:
            break
    return chosen


def _places(scores_C: np.ndarray, chosen: Sequence[int], diversity: float, near: np.ndarray | None) -> Iterator[int]:
    """The candidates by their worth, each once, while `chosen` grows."""
    if near is None or not len(scores_C):
        yield from range(len(scores_C))
        return
    unit = near / np.maximum(np.linalg.norm(near, axis=1, keepdims=True), 1e-12)
    span = float(scores_C[0] - scores_C[-1])
    gain = (scores_C - scores_C[-1]) / span if span else np.zeros(len(scores_C))
    worth, nearest, seen = gain, np.full(len(scores_C), -np.inf), 0
    free = np.ones(len(scores_C), dtype=bool)
    while free.any():
        if len(chosen) > seen:
            seen = len(chosen)
            nearest = np.maximum(nearest, unit @ unit[chosen[-1]])
            worth = (1 - diversity) * gain - diversity * nearest
        place = int(np.where(free, worth, -np.inf).argmax())
        free[place] = False
        yield place
