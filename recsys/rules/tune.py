"""Finding the constants on validation: coordinate search, seconds to a minute or two.

Every candidate is ranked over the whole catalogue, items of the user's past left out, by NDCG@10.

Legend: R validation rows, N items, T training events.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import sparse

from recsys.data.prepared import PreparedDataset
from recsys.rules.config import RulesConfig, RulesTuningConfig
from recsys.rules.counts import Counts, Events, follows, history_weights, mean_gain

# Direction and age matter most.
_COORDINATES = ("backward", "decay", "distance", "source", "target")


@dataclass(frozen=True)
class Tuned:
    """What a search found.

    Attributes:
        best: NDCG@10 of `config` on the validation rows, None where there are none.
        tried: every candidate in the order it was tried, its constants and `valid`, for the record.
    """

    config: RulesConfig
    best: float | None
    tried: list[dict[str, Any]]


def tune_counts(
    dataset: PreparedDataset, start: RulesConfig, config: RulesTuningConfig, *, report: Callable[[str], None] = print
) -> Tuned:
    """Coordinate search over decay, backward, distance, source and target, from the constants of `start`.

    Time: `rounds` times about 40 candidates; a candidate counts anew where `distance` changes (in proportion to
    window · T) and multiplies two sparse matrices (in proportion to R, the items of a history, the rules of an item).
    """
    rows = dataset.sample("valid", config.rows, seed=0)
    if not len(rows):
        return Tuned(start, None, [])
    search = _Search(dataset, rows)
    best, chosen = search.gain(start), start
    for _ in range(config.rounds):
        before = chosen
        for name in _COORDINATES:
            for value in getattr(config, name):
                candidate = replace(chosen, **{name: value})
                if (gain := search.gain(candidate)) > best:
                    best, chosen = gain, candidate
        report(f"sequential rules: {len(search.known)} candidates, NDCG@10 on validation {best:.4f}")
        if chosen == before:
            break
    tried = [{**dict(zip(_COORDINATES, values, strict=True)), "valid": gain} for values, gain in search.known.items()]
    return Tuned(chosen, best, tried)


class _Search:
    """Candidates that were ranked, and what two candidates have in common."""

    def __init__(self, dataset: PreparedDataset, rows: np.ndarray) -> None:
        self.dataset, self.rows = dataset, rows
        self.known: dict[tuple[float, ...], float] = {}
        self._events = Events.of(dataset)
        self._frequency = self._events.frequency
        self._forward: dict[float, sparse.csr_array] = {}

    def gain(self, config: RulesConfig) -> float:
        values = tuple(getattr(config, name) for name in _COORDINATES)
        if values not in self.known:
            counts = Counts.of(self._follows(config), self._frequency, config)
            weights = history_weights(self.dataset, self.rows, config.decay)
            self.known[values] = mean_gain(weights, counts.rules(), self.dataset, self.rows)
        return self.known[values]

    def _follows(self, config: RulesConfig) -> sparse.csr_array:
        if config.distance not in self._forward:
            if len(self._forward) > 1:  # the best one and the one in hand
                self._forward.pop(next(iter(self._forward)))
            self._forward[config.distance] = follows(self._events, config.window, config.distance)
        return self._forward[config.distance]
