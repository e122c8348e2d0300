"""The data of all trials of a sweep, in Ray's object store: read once by the driver, mapped by every process."""

import warnings
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import ray
import torch

from recsys.data.prepared import PreparedDataset
from recsys.signals.signals import TeacherSignals
from recsys.signals.states import StoredStates


@dataclass(frozen=True)
class _SharedSignals(TeacherSignals):
    """Signals whose arrays lie in shared memory, the table of rows among them."""

    table: np.ndarray

    def lookup(self, total: int) -> np.ndarray:
        assert total == len(self.table)
        return self.table


@dataclass(frozen=True)
class Inputs:
    """What all trials read. Tensors travel as arrays: these alone are mapped instead of copied."""

    dataset: PreparedDataset
    signals: TeacherSignals | None
    table: np.ndarray | None
    states: StoredStates | None


def share(
    dataset: PreparedDataset, signals: TeacherSignals | None, states: StoredStates | None = None
) -> "ray.ObjectRef[Inputs]":
    """Put the data into the object store: once, whatever the number of trials; a node that needs it copies it once."""
    return ray.put(gather(dataset, signals, states))


def gather(dataset: PreparedDataset, signals: TeacherSignals | None, states: StoredStates | None = None) -> Inputs:
    """What `share` puts there."""
    if signals is None:
        return Inputs(dataset, None, None, states)
    text = signals.text_embeddings
    arrays: Any = {
        "item_embeddings": signals.item_embeddings.numpy(),
        "text_embeddings": None if text is None else text.numpy(),
    }
    return Inputs(dataset, replace(signals, **arrays), signals.lookup(len(dataset.items)), states)


@lru_cache(maxsize=1)
def receive(
    reference: "ray.ObjectRef[Inputs]",
) -> tuple[PreparedDataset, TeacherSignals | None, StoredStates | None]:
    """In a process that trains: the shared data, unpacked once for all trials that run there."""
    # Ray's arrays are read-only, and nothing writes to data.
    warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
    inputs = ray.get(reference)
    if inputs.signals is None or inputs.table is None:
        return inputs.dataset, None, inputs.states
    fields = {**vars(inputs.signals)}
    for name in ("item_embeddings", "text_embeddings"):
        fields[name] = None if fields[name] is None else torch.from_numpy(fields[name])
    return inputs.dataset, _SharedSignals(**fields, table=inputs.table), inputs.states
