"""Checkpoints for exchange and serving: `config.json`, `model.safetensors`, `items.parquet`, nothing executable."""

import json
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from recsys import storage
from recsys.config import from_dict, to_dict
from recsys.data.prepared import Catalogue, PreparedDataset
from recsys.errors import UserError
from recsys.model import SequentialRecommender, model_class

LARGE = 2**28  # bytes
_UNREADABLE = (
    KeyError,
    TypeError,
    json.JSONDecodeError,
    pa.ArrowInvalid,
    safetensors.SafetensorError,
    RuntimeError,
    FileNotFoundError,
)


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint.

    Attributes:
        hash: SHA-256 over the files' names and hashes.
        info: what `config.json` says of its making: dataset, selection, training.
    """

    model: SequentialRecommender
    catalogue: Catalogue
    max_history: int
    hash: str
    info: dict[str, Any]

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the dataset it was trained on."""
        return self.info["dataset"]["fingerprint"]

    def check_dataset(self, dataset: PreparedDataset, what: str, mend: str) -> None:
        """Raise a `UserError` where it was trained on another dataset, in the words of `what` it is and the `mend`."""
        if self.fingerprint != dataset.fingerprint:
            raise UserError(
                f"{what} was trained on dataset {self.fingerprint[:12]}, but dataset {dataset.name!r} is "
                f"{dataset.fingerprint[:12]}; {mend}"
            )


def save_checkpoint(
    uri: str,
    model: SequentialRecommender,
    dataset: PreparedDataset,
    *,
    state: dict[str, Tensor] | None = None,
    key: str = "",
    info: dict[str, Any] | None = None,
) -> None:
    """Write a checkpoint, whole or not at all.

    Args:
        state: weights to write in place of the model's current ones.
        info: further facts for `config.json` (training configuration, validation metrics, …).

    Raises:
        UserError: weights are not finite, or the disk is full.
    """
    config = {
        "kind": model.kind,
        "model": to_dict(model.config),
        "num_items": model.num_items,
        "items_hash": dataset.catalogue.hash,
        "max_history": dataset.max_history,
        "dataset": {
            "name": dataset.name,
            "fingerprint": dataset.fingerprint,
            "titles_hash": dataset.titles_hash,
            "protocol": dataset.protocol,
        },
        **(info or {}),
        **model.layout(),
    }
    _write(uri, model, dataset.catalogue, config, state or model.state_dict(), key)


def save_again(uri: str, checkpoint: Checkpoint, *, key: str = "") -> None:
    """Write what was loaded and changed, whole or not at all; what `info` says of its making stays.

    Raises:
        UserError: weights are not finite, or the disk is full.
    """
    model, catalogue = checkpoint.model, checkpoint.catalogue
    config = {**checkpoint.info, "num_items": model.num_items, "items_hash": catalogue.hash}
    _write(uri, model, catalogue, config, model.state_dict(), key)


def _write(
    uri: str,
    model: SequentialRecommender,
    catalogue: Catalogue,
    config: dict[str, Any],
    state: dict[str, Tensor],
    key: str,
) -> None:
    state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}
    _check_finite(state, f"{uri} is not written: the model")
    with storage.new_artifact(uri, key=key, attributes={"kind": model.kind}) as directory:
        (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        save_file(state, directory / "model.safetensors")
        catalogue.write(directory / "items.parquet")
        model.save_files(directory)


def _check_finite(state: dict[str, Tensor], what: str) -> None:
    """Refuse weights that are not finite anywhere: one such number may make every score NaN.

    Reads each number once (about a tenth of the time that their hash takes) and copies none.
    """
    for name, tensor in state.items():
        if (
            tensor.is_floating_point()
            and tensor.numel()
            and not torch.stack(tuple(torch.aminmax(tensor))).isfinite().all()
        ):
            raise UserError(f"{what} has weights that are not finite ({name}); train it again")


def _check_catalogue(catalogue: Catalogue, config: dict[str, Any], what: str) -> None:
    """Refuse items that are not those of the weights; a checkpoint that has no hash of them tells their number only."""
    if len(catalogue) != config["num_items"]:
        found = f"items.parquet has {len(catalogue)} items, but its weights are of {config['num_items']}"
        raise UserError(f"{what} is damaged: {found}; make it again")
    if config.get("items_hash", catalogue.hash) != catalogue.hash:
        found = "items.parquet has other items, or in another order, than its weights were trained with"
        raise UserError(f"{what} is damaged: {found}; make it again")


def _map_tables(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Leave large frozen tables where safetensors maps them, in the file, instead of copying them."""
    for name, buffer in list(model.named_buffers()):
        mapped = state.get(name)
        if mapped is None or buffer.nbytes < LARGE or (mapped.shape, mapped.dtype) != (buffer.shape, buffer.dtype):
            continue
        owner, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(owner), leaf, mapped)


def read_description(uri: str) -> dict[str, Any]:
    """What a checkpoint, or an export of one, says of itself: `kind`, `dataset`, `num_items` and more; no other file is
    read."""
    exported = storage.join(uri, "export.json")
    return dict(storage.read_json(exported if storage.exists(exported) else storage.join(uri, "config.json")))


def load_checkpoint(uri: str | Path, device: str = "cpu") -> Checkpoint:
    """Read a checkpoint.

    Args:
        device: on `meta` the model has its shapes but no numbers and no files of its own, and takes no memory.

    Raises:
        UserError: it is missing, incomplete, cut short, of an unknown kind, has weights that are not finite, or items
            that are not those of the weights.
    """
    directory = storage.local_copy(str(uri), "checkpoint")
    try:
        config = json.loads((directory / "config.json").read_text())
        cls = model_class(config["kind"])
        with torch.device("meta") if device == "meta" else nullcontext():
            model = cls(from_dict(cls.Config, config["model"]), num_items=config["num_items"])
        catalogue = Catalogue.read(directory / "items.parquet")
        _check_catalogue(catalogue, config, f"checkpoint {uri}")
        if device != "meta":
            model.lay_out(config)
            state = load_file(directory / "model.safetensors")
            _check_finite(state, f"checkpoint {uri}")
            _map_tables(model, state)
            model.load_state_dict(state, strict=True)
            model.load_files(directory, catalogue)
    except _UNREADABLE as error:
        raise UserError(f"checkpoint {uri} cannot be read: {' '.join(str(error).split())[:300]}") from None
    manifest = storage.read_manifest(str(uri))
    assert manifest is not None
    return Checkpoint(
        model=model.to(torch.device(device)).eval(),
        catalogue=catalogue,
        max_history=config["max_history"],
        hash=manifest.content_hash,
        info=config,
    )
