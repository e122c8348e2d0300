"""Records of made-up trials."""

from collections.abc import Callable
from typing import Any

import pytest

from recsys.tuning.records import Record


def made_up(number: int, values: list[float], parameters: dict[str, Any] | None = None, **facts: Any) -> Record:
    """A record whose validation metric takes `values`, an epoch each."""
    curve = [
        {"epoch": epoch, "loss": 1.0, "valid_ndcg@10": value, "train_seconds": 1.0, "valid_seconds": 0.5}
        for epoch, value in enumerate(values, start=1)
    ]
    standard: dict[str, Any] = {
        "digest": f"{number:032d}",
        "number": number,
        "parameters": parameters or {"model.width": number},
        "status": "finished" if values else "failed",
        "metric": "ndcg@10",
        "quality": max(values, default=None),
        "best_epoch": values.index(max(values)) + 1 if values else 0,
        "curve": curve,
        "train_seconds": 1.5 * len(values),
        "seconds": 1.5 * len(values) + 0.1,
        "elapsed": 10.0 * (number + 1),
    }
    return Record(**(standard | facts))


@pytest.fixture
def record() -> Callable[..., Record]:
    return made_up
