"""The students' architectures."""

from typing import Annotated, ClassVar, Literal

from recsys.config import Field, configuration
from recsys.decoders.config import CompressionConfig, LoRAConfig
from recsys.errors import UserError
from recsys.kinds import STUDENTS, OneOf, StudentConfig

Similarity = Literal["dot", "cosine"]


@configuration
class TableConfig(StudentConfig):
    """A student whose item vectors are a learned table (`recsys.students.items.TableRecommender`).

    Attributes:
        width: of the item vectors.
        similarity: of what is expected and an item: their dot product, or their cosine divided by `temperature`.
    """

    kind: str
    width: int = Field(default=64, ge=1)
    similarity: Similarity = "dot"
    temperature: float = Field(default=0.07, gt=0)


@configuration
class AttentionConfig(TableConfig):
    """A student whose blocks attend to the items of a history.

    Attributes:
        max_positions: the longest history that it can read.
    """

    blocks: int = Field(default=2, ge=1)
    heads: int = Field(default=2, ge=1)
    dropout: float = Field(default=0.2, ge=0, lt=1)
    max_positions: int = Field(default=50, ge=1)

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not divisible by heads {self.heads}; choose heads that divide it")

    def check_history(self, longest: int) -> None:
        if self.max_positions < longest:
            raise UserError(
                f"model.max_positions is {self.max_positions}, but histories of this dataset have up to {longest} "
                f"items; set it to {longest}"
            )


@configuration
class SASRecConfig(AttentionConfig):
    """Self-attentive sequential recommendation (Kang and McAuley, ICDM 2018), pre-norm."""

    recommender: ClassVar[str] = "recsys.students.sasrec:SASRec"
    kind: Literal["sasrec"] = "sasrec"


@configuration
class HSTUConfig(AttentionConfig):
    """Hierarchical sequential transduction units (Zhai et al., ICML 2024).

    Attributes:
        position_bias: attention looks at how many items lie between two.
        time_bias: attention looks at how long after one item another was met.
    """

    recommender: ClassVar[str] = "recsys.students.hstu:HSTU"
    kind: Literal["hstu"] = "hstu"
    position_bias: bool = True
    time_bias: bool = True


@configuration
class GRU4RecConfig(TableConfig):
    """Gated recurrent units (Hidasi et al., ICLR 2016)."""

    recommender: ClassVar[str] = "recsys.students.gru4rec:GRU4Rec"
    kind: Literal["gru4rec"] = "gru4rec"
    layers: int = Field(default=1, ge=1)
    dropout: float = Field(default=0.2, ge=0, lt=1)


@configuration
class CaserConfig(TableConfig):
    """Convolutional sequence embedding (Tang and Wang, WSDM 2018).

    Attributes:
        window: L, how many of the latest items it looks at.
        horizontal_filters: of each height from 1 to `window`.
        vertical_filters: weighted sums of the items in the window.
    """

    recommender: ClassVar[str] = "recsys.students.caser:Caser"
    kind: Literal["caser"] = "caser"
    window: int = Field(default=5, ge=1)
    horizontal_filters: int = Field(default=16, ge=1)
    vertical_filters: int = Field(default=4, ge=1)
    dropout: float = Field(default=0.2, ge=0, lt=1)


@configuration
class SLMRecConfig(StudentConfig):
    """A language-model recommender of fewer layers (SLMRec, arXiv 2405.17890), of the kind its teacher is.

    Its checkpoint is an ordinary one of the teacher's kind. Exactly one of `layers`, `every` and `keep` says how deep
    it is.

    Attributes:
        layers: keep this many of the first.
        every: keep one layer in this many, the last one included.
        keep: keep these, numbered from 1.
        teacher: the student of this project that it is cut from and taught by; empty for the project's teacher.
        start: from the `teacher`'s trained weights, or `fresh`: as the teacher began, from pretrained or random ones.
        width, heads: other than the teacher's; for a fresh start from scratch alone.
        rows: what is learned from: `every-position` of a sequence (E4SRec), or `one-a-user`, the last one (SLMRec).
        lora: train adapters on the kept layers instead of the layers.
    """

    layered: ClassVar[bool] = True
    kind: Literal["slmrec"]
    layers: int | None = Field(default=None, ge=1)
    every: int | None = Field(default=None, ge=1)
    keep: tuple[int, ...] | None = None
    teacher: str = ""
    start: Literal["teacher", "fresh"] = "teacher"
    width: int | None = Field(default=None, ge=8)
    heads: int | None = Field(default=None, ge=1)
    rows: Literal["every-position", "one-a-user"] = "every-position"
    lora: LoRAConfig | None = None

    def __post_init__(self) -> None:
        if sum(depth is not None for depth in (self.layers, self.every, self.keep)) != 1:
            raise ValueError("say how deep it is by exactly one of layers, every and keep")
        if (self.width or self.heads) and self.start != "fresh":
            raise ValueError("trained weights cannot change their width; set start=fresh, or leave width and heads out")

    @property
    def made_from(self) -> str:
        return self.teacher


@configuration
class CompressedConfig(StudentConfig):
    """A language-model recommender of this project with smaller weights, nothing trained.

    Its checkpoint is an ordinary one of the kind it is made from.

    Attributes:
        teacher: the student that it is made from; empty for the project's teacher.
    """

    maker: ClassVar[str] = "recsys.students.compressed:make_compressed"
    kind: Literal["compressed"]
    teacher: str = ""
    compression: CompressionConfig

    @property
    def made_from(self) -> str:
        return self.teacher


StudentModelConfig = Annotated[StudentConfig, OneOf(STUDENTS)]
"""The students by `kind`."""
