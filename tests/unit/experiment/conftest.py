"""Logs of made-up experiments, as the application writes them."""

from typing import Any

import numpy as np
import pyarrow as pa

from recsys.serving.assignment import assign
from recsys.serving.events import SCHEMA

SPLIT = {"teacher": 0.5, "student": 0.5}


def exposure(request_id: str, user_id: str | None, arm: str, time: float, **other: Any) -> dict[str, Any]:
    return {
        "kind": "exposure", "request_id": request_id, "user_id": user_id, "arm": arm, "time": time,
        "assigned_by": "user", "experiment": 1, "items": ["i1", "i2"], "fallback": False, "model_ms": 1.0,
        "queue_ms": 0.5, **other,
    }  # fmt: skip


def feedback(request_id: str, item_id: str, time: float = 1e9, event: str = "click") -> dict[str, Any]:
    return {"kind": "feedback", "request_id": request_id, "item_id": item_id, "event": event, "time": time}


def to_table(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(sorted(rows, key=lambda row: row["time"]), schema=SCHEMA)


def simulate(
    users: int = 1500,
    *,
    clicks: dict[str, float],
    failures: dict[str, float] | None = None,
    items: dict[str, int] | None = None,
    lost: float = 0.0,
    seed: int = 0,
) -> pa.Table:
    """Users ask about four times each; the rates are by arm.

    Args:
        items: how many different ones an arm shows.
        lost: share of the student's users whose requests never reach the log.
    """
    generator = np.random.default_rng(seed)
    rows = []
    for number in range(users):
        arm = assign(f"u{number}", SPLIT, "s")
        if arm == "student" and generator.random() < lost:
            continue
        for place in range(generator.poisson(3) + 1):
            request_id, time = f"{number}.{place}", 1e9 + generator.random() * 1000
            if generator.random() < (failures or {}).get(arm, 0.0):
                rows.append({**exposure(request_id, f"u{number}", arm, time), "kind": "failure", "items": None})
                continue
            shown = [f"i{n}" for n in generator.choice((items or {}).get(arm, 200), 5, replace=False)]
            milliseconds = generator.gamma(2, 4.0 if arm == "teacher" else 0.5)
            rows.append(exposure(request_id, f"u{number}", arm, time, items=shown, model_ms=milliseconds))
            if generator.random() < clicks[arm]:
                rows.append(feedback(request_id, shown[0], time + 1))
    return to_table(rows)
