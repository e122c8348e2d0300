"""Tokenizers, configurations and bodies of transformers models, loaded from disk unless downloads are allowed."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from recsys.errors import UserError


def load_tokenizer(source: str | Path) -> Any:
    """The tokenizer of a transformers id or path.

    Raises:
        UserError: it is not there, or it needs code of its own.
    """
    from transformers import AutoTokenizer

    with one_line(str(source)):
        return AutoTokenizer.from_pretrained(str(source), local_files_only=offline(), trust_remote_code=False)


def load_transformers_model(source: str, dtype: torch.dtype = torch.float32) -> Any:
    """A model's body with its weights.

    Raises:
        UserError: it is not there, has no safetensors weights, or needs code of its own.
    """
    from transformers import AutoModel

    with one_line(source):
        return AutoModel.from_pretrained(
            source, dtype=dtype, local_files_only=offline(), trust_remote_code=False, use_safetensors=True
        )


def load_transformers_config(source: str) -> Any:
    """The transformers configuration of a model.

    Raises:
        UserError: it is not there, or it needs code of its own.
    """
    from transformers import AutoConfig

    with one_line(source):
        return AutoConfig.from_pretrained(source, local_files_only=offline(), trust_remote_code=False)


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
