"""Which losses a student is trained with."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from recsys.config import Field, NotInKey, configuration
from recsys.kinds import DISTILLERS, DistillerConfig, OneOf

SET_NAME = r"^([A-Za-z0-9][A-Za-z0-9._-]*)?$"
"""What a set of teacher signals may be called; the one without a name is the usual one."""


@configuration
class RecommendationLossConfig:
    """The loss on the true next item.

    Attributes:
        kind: `softmax` over the whole catalogue; `sampled-softmax` over the target and some items that the batch shares
            (`recsys.losses.sampled_softmax`); `bce` with uniform negatives, as the paper trains its students; `gbce` is
            `bce` whose positive probability is calibrated for them (gSASRec); `dros` is `bce` plus alpha times the
            distributionally robust term.
        negatives: negatives per position (bce, gbce, dros), or per batch (sampled-softmax, which wants a thousand).
        label_smoothing: share of the target's probability that is spread evenly over all items (softmax).
        calibration: t of gbce: 0 is bce, 1 undoes what sampling does to the probabilities that are learned.
        popularity: exponent of an item's training count in the chance to be drawn; 0 draws uniformly (sampled-softmax).
        alpha, beta: weight and radius of the DROS term in the form that DLLM2Rec uses.
    """

    kind: Literal["softmax", "sampled-softmax", "bce", "gbce", "dros"] = "softmax"
    negatives: int = Field(default=1, ge=1)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    calibration: float = Field(default=0.75, ge=0, le=1)
    popularity: float = Field(default=0.0, ge=0)
    alpha: float = Field(default=0.5, ge=0)
    beta: float = Field(default=1.0, gt=0)


def _form(name: Any) -> Any:
    """`sigmoid` is what `paper` was called at first."""
    return "paper" if name == "sigmoid" else name


@configuration
class RankingDistillationConfig:
    """Importance-aware ranking distillation (DLLM2Rec, arXiv 2405.00338, eq. 4-11).

    Attributes:
        weight: λ_d, how much the teacher's list weighs beside the true item: the weights of its K candidates add up to
            1 (`recsys.losses.ranking_distillation`). The loss is a mean over the rows that the signals hold, so that λ
            means the same where they hold a sample of the training rows.
        k: the teacher's top-K that is taught.
        position, confidence, consistency: γ_p, γ_c, γ_o, shares of the weights; their sum does not matter.
        beta: β, how fast the position weight falls with the rank.
        temperature: T of the confidence exp(−d/T), in medians of the training rows' distances; the smaller, the more it
            tells rows apart. null chooses it on the validation rows that the signals hold: exp(−d/T) is then the
            likeliest probability that the teacher's list holds the true item. Where they do not tell (imported signals
            hold no such rows) it is the median. `code` takes it in the unit of the distances, null for 1.
        form: `paper` is −w log σ(y); `softmax` is −w log softmax(y) over the catalogue; `soft` is the same with the
            teacher's own probabilities, the softmax of its scores over the K candidates divided by `temperature` (null
            for 1), in the place of w, so that the γ and β have no say; `code` is what the authors' code computes
            instead of the paper: confidence in each candidate, a negative for each, β = 1.
        permuted: each training row is taught the list of another one, drawn by the training's seed. A control: what is
            gained by it was not learned from what the teacher says of the row.
    """

    weight: float = Field(default=0.25, ge=0)
    k: int = Field(default=10, ge=1)
    position: float = Field(default=0.3, ge=0)
    confidence: float = Field(default=0.5, ge=0)
    consistency: float = Field(default=0.1, ge=0)
    beta: float = Field(default=1.0, gt=0)
    temperature: float | None = Field(default=None, gt=0)
    form: Annotated[Literal["paper", "softmax", "soft", "code"], BeforeValidator(_form)] = "paper"
    permuted: bool = False

    def __post_init__(self) -> None:
        if not self.position + self.confidence + self.consistency:
            raise ValueError("position, confidence and consistency are all 0; set one of them, or leave ranking out")
        if self.form == "code" and self.beta != 1:
            raise ValueError(f"beta is {self.beta:g}, but form=code has it fixed at 1; leave it out")

    @property
    def of_softmax(self) -> bool:
        """Whether it is a cross-entropy over the catalogue."""
        return self.form in ("softmax", "soft")

    @property
    def needs_student(self) -> bool:
        """Whether the weights depend on what the student ranks."""
        return self.form != "soft" and self.consistency > 0


@configuration
class EmbeddingDistillationConfig:
    """Collaborative embedding distillation (DLLM2Rec eq. 12-13): item vector = offset + mix · g(teacher embedding).

    Attributes:
        source: `item_embeddings` are the teacher's own fitted vectors, `text_embeddings` its raw text side.
        hidden: width of the hidden layer of the projector g; 0 makes g linear.
        mix: weight of the projected embedding.
    """

    source: Literal["item_embeddings", "text_embeddings"] = "item_embeddings"
    hidden: int = Field(default=0, ge=0)
    mix: float = Field(default=1.0, gt=0)


@configuration
class DistillationConfig:
    """What a student takes from the teacher; each part may be left out.

    Attributes:
        signals: the set of teacher signals that it learns from, by its `signals.name`; null is the set that this
            configuration makes, and "" the one without a name.
        ranking, embedding: the two parts of DLLM2Rec.
        distiller: another method (`docs/distillers.md`), added to them; for it alone set both to null.
    """

    signals: NotInKey[str | None] = Field(default=None, pattern=SET_NAME)
    ranking: RankingDistillationConfig | None = RankingDistillationConfig()
    embedding: EmbeddingDistillationConfig | None = EmbeddingDistillationConfig()
    distiller: Annotated[DistillerConfig, OneOf(DISTILLERS)] | None = None


@configuration
class AlignmentConfig:
    """The block-wise losses of SLMRec (arXiv 2405.17890); layers of student and teacher are grouped in blocks.

    Attributes:
        blocks: b; it divides the depth of both.
        cosine: λ1, the weight of 1 − D_cos.
        norm: λ2, the weight of D_norm.
        supervision: λ3, the weight of L_ms: the next item predicted from each block but the last, by an adapter.
        logits: weight of the Kullback-Leibler divergence from the teacher's distribution over the catalogue.
        form: `paper` means over blocks and squares the norm, as printed; `code` sums over blocks and takes the plain
            norm, as the authors' code does.
        online: train the teacher beside the student, on the next item alone (by adapters, where it was made so);
            otherwise it is frozen.
        stored: take the frozen teacher's states from its signals (`signals.states`) instead of computing them at each
            step; histories longer than a window are then learned in the windows of the teacher's pass, the same in
            every epoch.
        signals: the set of teacher signals that holds the stored states, as of `DistillationConfig`.
    """

    blocks: int = Field(default=4, ge=1)
    cosine: float = Field(default=1.0, ge=0)
    norm: float = Field(default=0.1, ge=0)
    supervision: float = Field(default=1.0, ge=0)
    logits: float = Field(default=0.0, ge=0)
    form: Literal["paper", "code"] = "paper"
    online: bool = False
    stored: bool = False
    signals: NotInKey[str | None] = Field(default=None, pattern=SET_NAME)

    def __post_init__(self) -> None:
        if self.signals is not None and not self.stored:
            raise ValueError("signals names a set of stored states, but stored is false; set it, or leave signals out")
        if self.stored and (self.online or not self.teaches):
            raise ValueError("stored reads a frozen teacher's states; set online=false and one of cosine, norm, logits")
        if self.online and not self.teaches:
            raise ValueError("online trains a teacher, but nothing is taken from it; set cosine, norm or logits")
        if not self.teaches and (self.blocks == 1 or not self.supervision):
            raise ValueError(
                "nothing is learned but the next item: supervision predicts from each block but the last; leave "
                "alignment out, or set cosine, norm or logits, or supervision with at least 2 blocks"
            )

    @property
    def teaches(self) -> bool:
        """Whether anything is learned from a teacher; multi-supervision needs none."""
        return bool(self.cosine or self.norm or self.logits)
