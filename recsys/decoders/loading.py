"""Tokenizers, configurations and weights of language models, loaded from disk unless downloads are allowed.

A model is named as configurations name it: an id or path of transformers, or what `local_folder` makes a path of.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from recsys import storage
from recsys.decoders.pretrained import local_folder
from recsys.errors import UserError


def load_tokenizer(source: str | Path) -> Any:
    """The tokenizer of a model.

    Raises:
        UserError: it is not there, or it needs code of its own.
    """
    from transformers import AutoTokenizer

    folder = local_folder(str(source))
    with one_line(str(source)):
        return AutoTokenizer.from_pretrained(folder, local_files_only=offline(), trust_remote_code=False)


def load_transformers_model(source: str, dtype: torch.dtype = torch.float32) -> Any:
    """A model's body with its weights.

    Raises:
        UserError: it is not there, has no safetensors weights, or needs code of its own.
    """
    from transformers import AutoModel

    return _with_weights(AutoModel, source, dtype)


def load_causal_model(source: str) -> Any:
    """A causal language model with its weights and its head, in fp32.

    Raises:
        UserError: see `load_transformers_model`.
    """
    from transformers import AutoModelForCausalLM

    return _with_weights(AutoModelForCausalLM, source, torch.float32)


def _with_weights(kind: Any, source: str, dtype: torch.dtype) -> Any:
    folder = local_folder(source)
    with one_line(source):
        return kind.from_pretrained(
            folder, dtype=dtype, local_files_only=offline(), trust_remote_code=False, use_safetensors=True
        )


def load_transformers_config(source: str) -> Any:
    """The transformers configuration of a model.

    Raises:
        UserError: it is not there, or it needs code of its own.
    """
    from transformers import AutoConfig

    folder = local_folder(source)
    with one_line(source):
        return AutoConfig.from_pretrained(folder, local_files_only=offline(), trust_remote_code=False)


def identity(source: str) -> Any:
    """What tells two models apart: the revision of a hub model, names, sizes and configuration of a local one, and the
    content of one that was converted.

    Raises:
        UserError: it is not there.
    """
    folder = Path(local_folder(source))
    if not folder.is_dir():
        return [source, getattr(load_transformers_config(source), "_commit_hash", None)]
    if (manifest := storage.read_manifest(str(folder))) is not None:
        return manifest.content_hash
    files = sorted(file for file in folder.iterdir() if file.suffix in {".safetensors", ".json", ".txt", ".model"})
    if not (folder / "config.json").exists():
        raise UserError(f"{folder} holds no model: config.json is missing")
    return [[file.name, file.stat().st_size] for file in files] + [(folder / "config.json").read_text()]


def offline() -> bool:
    """Whether models come from disk alone: unless the user says `HF_HUB_OFFLINE=0`."""
    return os.environ.get("HF_HUB_OFFLINE", "1").lower() not in {"0", "false", "no", "off", ""}


@contextmanager
def one_line(model: str) -> Iterator[None]:
    """Turn what transformers raises for a missing or unfit model into one sentence."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    try:
        yield
    except OSError as error:
        where = "is neither a folder nor in the local Hugging Face cache" if offline() else "cannot be fetched"
        mend = "give a path, or set HF_HUB_OFFLINE=0 to allow the download" if offline() else "check its name"
        raise UserError(f"model {model!r} {where}, or it has no safetensors weights; {mend}") from error
    except (ValueError, KeyError) as error:
        raise UserError(
            f"model {model!r} cannot be loaded without running code of its repository, or its type is unknown to this "
            "transformers; choose another model"
        ) from error
