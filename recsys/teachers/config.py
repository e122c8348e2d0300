"""What the teacher is."""

import dataclasses
from typing import Annotated, Any, ClassVar, Literal

from recsys.config import Field, configuration
from recsys.decoders.config import ItemEncoderConfig, ItemLoRAConfig, LoRAConfig, absolute_folder, check_rotary
from recsys.kinds import TEACHERS, OneOf, TeacherConfig

_NO_BASE = "base_layers picks layers of a pretrained model; from scratch set layers, and leave base_layers out"


@configuration
class HLLMConfig(TeacherConfig):
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
            id or path of a causal decoder, `smollm2` or a GGUF file, which brings its own layers, heads and width.
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

    recommender: ClassVar[str] = "recsys.teachers.hllm:HLLM"
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
        check_rotary(self.width, self.heads)
        if self.user_lora is not None:
            raise ValueError("user_lora adapts a pretrained model; name one in user_model, or leave user_lora out")

    def with_absolute_folders(self) -> "HLLMConfig":
        item = self.item
        if self.item_training != "frozen":
            item = dataclasses.replace(item, model=absolute_folder(item.model))
        return dataclasses.replace(self, item=item, user_model=absolute_folder(self.user_model))


@configuration
class E4SRecConfig(TeacherConfig):
    """Item-id embeddings of a student, projected into a language model (E4SRec, arXiv 2312.02443).

    Attributes:
        ids_from: the student of this project whose item vectors are the frozen id embeddings.
        id_width: width of those vectors; filled in when a teacher is built.
        llm: `from-scratch` (a Llama decoder of the size below with random initial weights, which has no words) or a
            transformers id or path of a causal decoder, `smollm2` or a GGUF file, which brings its own layers, heads
            and width.
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

    recommender: ClassVar[str] = "recsys.teachers.e4srec:E4SRec"
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
        check_rotary(self.width, self.heads)
        if self.lora is not None:
            raise ValueError("lora adapts a pretrained model; name one in llm, or leave lora out")
        if self.response:
            raise ValueError("a model from scratch has no words; set response_vectors instead of response")

    @property
    def built_from(self) -> dict[str, str]:
        return {"ids_from": self.ids_from}

    def with_absolute_folders(self) -> "E4SRecConfig":
        return dataclasses.replace(self, llm=absolute_folder(self.llm))


TeacherModelConfig = Annotated[TeacherConfig, OneOf(TEACHERS, default="hllm")]
"""The teachers by `kind`; hllm where none is given."""
