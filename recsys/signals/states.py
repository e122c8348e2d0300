"""The teacher's states after each block of its layers, stored beside its rankings for the training rows.

    states/part-*.safetensors        `rows` [S] int64 ascending, `states` [S, B, H] of the training rows of a shard

A part is written whole, before the shard of rankings that vouches for it. Students taught block by block
(`recsys.students.slmrec`) then need no pass of the teacher.

Legend: S rows, B blocks, H width of the teacher's states, P positions.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from recsys import storage
from recsys.data.prepared import PreparedDataset
from recsys.errors import UserError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True)
class StatesMeta:
    """What `signals.json` says of the states.

    Attributes:
        layers: after which layers of the teacher, from 1; those of its last layer are behind the final norm.
        width: H.
        dtype: fp32 or bf16.
    """

    layers: list[int]
    width: int
    dtype: str

    def bytes(self, rows: int) -> int:
        """What the states of this many rows take."""
        return rows * len(self.layers) * self.width * DTYPES[self.dtype].itemsize


def part_uri(uri: str, number: int) -> str:
    """Where the states of a shard lie in signals or in the work directory of a pass."""
    return storage.join(uri, "states", f"part-{number:05d}.safetensors")


def write_part(uri: str, number: int, rows: np.ndarray, states: Tensor) -> None:
    """Write the states [S, B, H] of a shard's training rows whole or not at all."""
    data = {"rows": torch.from_numpy(rows.astype(np.int64)), "states": states.contiguous()}
    storage.write_bytes(part_uri(uri, number), save(data))


class StoredStates:
    """The states of training rows in memory: S · B · H numbers of the stored type, and 8 bytes per interaction.

    Attributes:
        checkpoint_hash: of the teacher whose states they are.
    """

    def __init__(self, meta: StatesMeta, checkpoint_hash: str, rows: np.ndarray, states: Tensor, total: int) -> None:
        """
        Args:
            rows: [S] unique; states: [S, B, H].
            total: interactions of the dataset.
        """
        self.meta, self.checkpoint_hash = meta, checkpoint_hash
        self._states = states
        self._index = torch.full((total,), -1, dtype=torch.int64)
        self._index[torch.from_numpy(rows)] = torch.arange(len(rows))

    @classmethod
    def load(cls, uri: str, dataset: PreparedDataset) -> "StoredStates":
        """The states among the signals at `uri`.

        Raises:
            UserError: there are none, or they are damaged or of another dataset.
        """
        directory = storage.local_copy(uri, "teacher signals")
        try:
            said = json.loads((directory / "signals.json").read_text())
            meta = StatesMeta(**said["states"]) if said.get("states") else None
            parts = [load_file(part) for part in _parts(directory)]
        except (TypeError, KeyError, json.JSONDecodeError, safetensors.SafetensorError, FileNotFoundError) as error:
            raise UserError(f"teacher signals {uri} are not in the expected form: {error}") from None
        if meta is None:
            raise UserError(
                f"teacher signals {uri} hold no states, but alignment.stored reads them; "
                "run infer_teacher with signals.states.blocks=…, or set alignment.stored=false"
            )
        if said["fingerprint"] != dataset.fingerprint:
            raise UserError(
                f"the stored states in {uri} are of dataset {said['fingerprint'][:12]}, but dataset {dataset.name!r} "
                f"is {dataset.fingerprint[:12]}; run infer_teacher on this dataset"
            )
        rows = torch.cat([part["rows"] for part in parts]) if parts else torch.zeros(0, dtype=torch.int64)
        shape = (len(meta.layers), meta.width)
        states = torch.cat([part["states"] for part in parts]) if parts else torch.zeros(0, *shape)
        if states.shape[1:] != shape or len(states) != len(rows) or len(rows.unique()) != len(rows):
            raise UserError(f"teacher signals {uri}: the stored states are not what signals.json says of them")
        return cls(meta, said["checkpoint_hash"], rows.numpy(), states, len(dataset.items))

    def __getstate__(self) -> dict[str, Any]:
        """Tensors travel between processes as arrays, which Ray maps instead of copying; NumPy has no bf16."""
        plain = self._states.view(torch.int16) if self._states.dtype == torch.bfloat16 else self._states
        return {**vars(self), "_states": plain.numpy(), "_index": self._index.numpy()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._states, self._index = torch.from_numpy(state["_states"]), torch.from_numpy(state["_index"])
        if self._states.dtype == torch.int16:
            self._states = self._states.view(torch.bfloat16)

    def check(self, checkpoint_hash: str, layers: list[int], rows: np.ndarray) -> None:
        """Raise a `UserError` where these are not the states after `layers` of that teacher, or of none of `rows`."""
        if self.checkpoint_hash != checkpoint_hash:
            raise UserError(
                f"the stored states are of teacher revision {self.checkpoint_hash[:12]}, but the teacher is "
                f"{checkpoint_hash[:12]} now; run infer_teacher again"
            )
        if not set(layers) <= set(self.meta.layers):
            raise UserError(
                f"the stored states are those after layers {_list(self.meta.layers)}, but {len(layers)} blocks need "
                f"those after {_list(layers)}; run infer_teacher with signals.states.blocks={len(layers)}"
            )
        if not bool((self._index[torch.from_numpy(rows)] >= 0).any()):
            raise UserError("no training row has stored states; run infer_teacher with train among signals.splits")

    def at(self, rows: Tensor, layers: list[int]) -> tuple[Tensor, list[Tensor]]:
        """Which of `rows` [P] have states ([P] bool), and theirs after each of `layers`, float32."""
        index = self._index[rows.cpu()]
        found = self._states[index[index >= 0]].to(rows.device).float()
        return (index >= 0).to(rows.device), [found[:, self.meta.layers.index(layer)] for layer in layers]


def _parts(directory: Path) -> list[Path]:
    return sorted((directory / "states").glob("part-*.safetensors"))


def _list(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers))
