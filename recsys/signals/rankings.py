"""Rankings of rows as a teacher gives them, before they are written.

Legend: S rows, K candidates.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Rankings:
    """What a teacher says about S rows.

    Attributes:
        rows: [S] int64 ascending.
        items: [S, K] int32, best first.
        scores: [S, K] float32; their meaning is the teacher's `score_meaning`.
        target_distance: [S] float32; its meaning is the teacher's `distance_meaning`.
        log_mass: [S] float32, see `recsys.signals.signals.TeacherSignals.log_mass_outside`, or None.
        tokens: what the decoder read and wrote for all of them, without padding: items of the windows, or tokens of
            the distinct prompts and of the titles that were written.
    """

    rows: np.ndarray
    items: np.ndarray
    scores: np.ndarray
    target_distance: np.ndarray
    log_mass: np.ndarray | None = None
    tokens: int = 0

    def of(self, chosen: np.ndarray) -> "Rankings":
        """Those of some rows, in the order of the indices or where the mask is true; `tokens` stays."""
        rows = {name: values[chosen] for name, values in vars(self).items() if isinstance(values, np.ndarray)}
        return dataclasses.replace(self, **rows)


def join_rankings(parts: Sequence[Rankings]) -> Rankings:
    """Rankings of distinct rows as one, rows ascending."""
    together: dict[str, Any] = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name, values in vars(parts[0]).items()
        if isinstance(values, np.ndarray)
    }
    merged = Rankings(**together, tokens=sum(part.tokens for part in parts))
    return merged.of(np.argsort(merged.rows))


def finite_only(rankings: Rankings) -> Rankings:
    """Without the rows whose prediction is not finite: one poisoned row must not cost a pass. None may be left, for
    they may have been asked for alone; whether the teacher itself is broken is seen when all rows are ranked."""
    return rankings.of(np.isfinite(rankings.scores).all(axis=1) & np.isfinite(rankings.target_distance))
