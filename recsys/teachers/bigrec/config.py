"""What BIGRec is."""

import dataclasses
from typing import Any, ClassVar, Literal

from recsys.config import Field, configuration
from recsys.decoders.config import LoRAConfig, absolute_folder, check_rotary
from recsys.kinds import TeacherConfig

FROM_SCRATCH = "from-scratch"


@configuration
class BIGRecLoRAConfig(LoRAConfig):
    """The adapters of BIGRec."""

    rank: int = Field(default=8, ge=1)
    targets: tuple[str, ...] = ("q_proj", "v_proj")


@configuration
class BIGRecConfig(TeacherConfig):
    """A causal language model reads titles, writes a title, and the catalogue is ranked by its distance to that title
    (BIGRec, arXiv 2308.08434).

    Attributes:
        base: transformers id or path of a causal language model, `smollm2` or a GGUF file, or `from-scratch`: a Llama
            of the size below with random initial weights, and a tokenizer trained on the catalogue's titles.
        base_config: the transformers configuration of the language model; filled in when a teacher is built, so that
            a checkpoint loads without its base model.
        width, layers, heads, vocabulary: of the model and tokenizer that are made from scratch.
        lora: adapters on a frozen base; without, all weights are trained, and titles are embedded by the trained model
            instead of the base.
        noun, plural, verb: how the prompt speaks of items: "recommend a new <noun>", "<plural> the user has <verb>".
        history: items of the history that the prompt names, at most.
        time_gaps: whether the prompt says in words how long after the one before each item was met.
        title_tokens: longer titles are cut, in prompts and catalogue alike. Generation ends there too.
        max_tokens: longer prompts lose their oldest items.
        train_rows: training rows that are learned from, a seeded sample; null takes all.
        train_on_inputs: learn to write the titles of the history too, not the response alone.
        valid_rows: validation rows that select the checkpoint, a seeded sample.
        beams: 1 is greedy.
        constrained: write titles of the catalogue only.
        pooling: what stands for a text: the last token's vector, the mean over its tokens, or the last token of a
            prompt that asks for one word (PromptEOL, arXiv 2307.16645).
        popularity: rank by (1 + c)^(−γ) · d, c the items' popularity in training and d their distance (L2), each
            scaled to 0..1 over the catalogue; γ is chosen once, on the validation rows, after training.
        scores_from: the student of this project whose scores for the history are c instead, scaled to 0..1 over the
            catalogue for each history; the student becomes a part of the checkpoint.
        scores_model: its kind and configuration; filled in when a teacher is built.
    """

    recommender: ClassVar[str] = "recsys.teachers.bigrec.bigrec:BIGRec"
    kind: Literal["bigrec"] = "bigrec"
    base: str = FROM_SCRATCH
    base_config: dict[str, Any] | None = None
    width: int = Field(default=192, ge=8)
    layers: int = Field(default=4, ge=1)
    heads: int = Field(default=4, ge=1)
    vocabulary: int = Field(default=4096, ge=300)
    lora: BIGRecLoRAConfig | None = None
    noun: str = Field(default="movie", min_length=1)
    plural: str = Field(default="movies", min_length=1)
    verb: str = Field(default="watched", min_length=1)
    history: int = Field(default=10, ge=1)
    time_gaps: bool = False
    title_tokens: int = Field(default=32, ge=4)
    max_tokens: int = Field(default=512, ge=64)
    train_rows: int | None = Field(default=None, ge=1)
    train_on_inputs: bool = True
    valid_rows: int = Field(default=200, ge=1)
    beams: int = Field(default=4, ge=1)
    constrained: bool = False
    pooling: Literal["last", "mean", "prompt_eol"] = "last"
    popularity: bool = False
    scores_from: str | None = None
    scores_model: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.popularity and self.scores_from is not None:
            raise ValueError("popularity and scores_from both say what c is; leave one of them out")
        if self.base != FROM_SCRATCH:
            return
        check_rotary(self.width, self.heads)
        if self.lora is not None:
            raise ValueError("lora adapts a trained model, but base is from-scratch; name a model, or leave lora out")

    @property
    def built_from(self) -> dict[str, str]:
        return {} if self.scores_from is None else {"scores_from": self.scores_from}

    def with_absolute_folders(self) -> "BIGRecConfig":
        return dataclasses.replace(self, base=absolute_folder(self.base))
