"""A dataset, teacher signals of some of its rows, and a step in which some rows have none."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from recsys.data.prepared import PreparedDataset
from recsys.distiller import Step
from recsys.signals.signals import SignalsMeta, TeacherSignals

K, ITEMS, WIDTH = 4, 20, 6


@pytest.fixture
def dataset(random_dataset: Callable[..., PreparedDataset]) -> PreparedDataset:
    return random_dataset(items=ITEMS)


@pytest.fixture
def make_signals(dataset: PreparedDataset) -> Callable[..., TeacherSignals]:
    def make(*, rows: np.ndarray | None = None, higher_is_better: bool = True, **facts: Any) -> TeacherSignals:
        rows = dataset.rows("train")[::2] if rows is None else rows
        generator = np.random.default_rng(3)
        scores = -np.sort(-generator.normal(size=(len(rows), K)).astype(np.float32))
        values: dict[str, Any] = {
            "rows": rows,
            "items": np.stack([generator.permutation(ITEMS)[:K] + 1 for _ in rows]).astype(np.int32),
            "scores": scores if higher_is_better else -scores,
            "target_distance": np.ones(len(rows), np.float32),
            "item_embeddings": torch.randn(ITEMS + 1, 5, generator=torch.Generator().manual_seed(1)),
            "text_embeddings": None,
            "log_mass_outside": None,
            "content_hash": "h",
        }
        meta = SignalsMeta(
            teacher="t", checkpoint_hash="c", fingerprint=dataset.fingerprint, k=K, higher_is_better=higher_is_better
        )
        return TeacherSignals(meta=meta, **(values | facts))

    return make


@pytest.fixture
def step(dataset: PreparedDataset) -> Step:
    torch.manual_seed(4)
    rows = torch.from_numpy(dataset.rows("train")[:40])
    hidden, vectors = torch.randn(40, WIDTH, requires_grad=True), torch.randn(ITEMS + 1, WIDTH, requires_grad=True)
    return Step(hidden, vectors, torch.from_numpy(dataset.items)[rows].long(), rows, None)


@pytest.fixture
def lists(step: Step, dataset: PreparedDataset) -> Callable[[TeacherSignals], list[tuple[Any, ...]]]:
    """Of each position whose row has a list: the logits by item, the teacher's items and scores, the target."""

    def read(signals: TeacherSignals) -> list[tuple[Any, ...]]:
        place = {int(row): at for at, row in enumerate(signals.rows)}
        found = []
        for position, row in enumerate(step.rows.tolist()):
            if row not in place:
                continue
            y = [0.0, *(step.hidden_PD[position] @ step.vectors_ND[1:].T).tolist()]
            sign = 1 if signals.meta.higher_is_better else -1
            at = place[row]
            found.append((y, signals.items[at].tolist(), (sign * signals.scores[at]).tolist(), dataset.items[row]))
        return found

    return read
