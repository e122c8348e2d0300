"""What trials share travels as arrays that are mapped, not copied."""

import pickle
from collections.abc import Callable

import pytest
import torch

from ray_jobs.sweeps.shared_inputs import Inputs, gather
from recsys.data.prepared import PreparedDataset
from recsys.signals.states import DTYPES, StatesMeta, StoredStates


@pytest.mark.parametrize("dtype", DTYPES)
def test_stored_states_are_mapped(dtype: str, random_dataset: Callable[..., PreparedDataset]) -> None:
    dataset = random_dataset()
    rows = dataset.rows("train")[1:]
    meta = StatesMeta(layers=[2, 4], width=3, dtype=dtype)
    numbers = torch.randn(len(rows), 2, 3).to(DTYPES[dtype])
    states = StoredStates(meta, "hash", rows, numbers, len(dataset.items))
    arrays: list[pickle.PickleBuffer] = []
    packed = pickle.dumps(gather(dataset, None, states), protocol=5, buffer_callback=arrays.append)
    assert len(packed) < 5000 + 40 * len(dataset.catalogue.titles), "the arrays are not in it"
    inputs = pickle.loads(packed, buffers=arrays)
    assert isinstance(inputs, Inputs) and inputs.states is not None
    asked = torch.from_numpy(dataset.rows("train"))
    have, (deep,) = inputs.states.at(asked, [4])
    assert have.tolist() == [False] + [True] * len(rows)
    assert torch.equal(deep, numbers[:, 1].float())
    inputs.states.check("hash", [2], rows)
    numbers += 1
    assert torch.equal(inputs.states.at(asked, [4])[1][0], numbers[:, 1].float()), "one memory"
