"""Constants of the sequential rules, and how they are found."""

from typing import Any, ClassVar, Literal

from recsys.config import Field, configuration
from recsys.kinds import ModelConfig, StudentConfig

RULES = "sequential-rules"
RULES_WITH_TITLES = "sequential-rules-titles"


@configuration
class RulesConfig(ModelConfig):
    """Sequential rules (SR; Ludewig and Jannach, UMUAI 2018) with frequencies divided out: `recsys.rules.counts`.

    The defaults lie between what validation chose on MovieLens 100K, Amazon Beauty and Amazon Toys; `tune` finds a data
    set's own.

    Attributes:
        window: j follows i where it comes at most this many events later.
        decay: δ, weight of an item of the history relative to the one after it.
        backward: β, weight of a pair read against its direction.
        distance: c, a pair d events apart counts 1 / d^c.
        source, target: a and b, exponents of the frequencies that a rule from i to j is divided by.
        spread: share of the probability that is given to all items alike, so that the logarithm is finite.
        title_weight: w, weight of the cosine of titles beside the logarithm of the counts' share; 0 for no titles.
        successors: keep this many strongest rules of each item; null keeps all.
        rules, title_width: of a fitted model, filled in when it is fitted.
    """

    recommender: ClassVar[str] = "recsys.rules.model:SequentialRules"
    kind: Literal["sequential-rules"] = "sequential-rules"
    window: int = Field(default=20, ge=1)
    decay: float = Field(default=0.6, gt=0, le=1)
    backward: float = Field(default=0.3, ge=0, le=1)
    distance: float = Field(default=0.5, ge=0)
    source: float = Field(default=0.4, ge=0)
    target: float = Field(default=0.2, ge=0)
    spread: float = Field(default=0.1, gt=0, lt=1)
    title_weight: float = Field(default=0.0, ge=0)
    successors: int | None = Field(default=None, ge=1)
    rules: int = Field(default=0, ge=0)
    title_width: int = Field(default=0, ge=0)


@configuration
class RulesTuningConfig:
    """Coordinate search on validation (`recsys.rules.tune`).

    Attributes:
        rows: validation rows that a candidate is ranked on: a seeded sample, or all where there are no more.
        rounds: passes over the constants at most; the search ends earlier where a pass changes nothing.
        decay, backward, distance, source, target, title_weight: values that are tried, each beside the best of the
            others.
        student_rules, student_titles: the same for the weights of a hybrid student's terms.
        student_repeats: the same for the term that is 1 for an item of the history, where the past is ranked as well.
    """

    rows: int = Field(default=10_000, ge=1)
    rounds: int = Field(default=3, ge=1)
    decay: tuple[float, ...] = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 1.0)
    backward: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0)
    distance: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5)
    source: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)
    target: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7)
    title_weight: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0)
    student_rules: tuple[float, ...] = (0.0, 0.3, 0.6, 0.9, 1.2, 1.5, 1.8, 2.4, 3.2, 4.8)
    student_titles: tuple[float, ...] = (0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0)
    student_repeats: tuple[float, ...] = (-16.0, -4.0, -2.0, 0.0, 2.0)

    def __post_init__(self) -> None:
        for name in ("decay", "backward", "distance", "source", "target", "title_weight"):
            if not getattr(self, name):
                raise ValueError(f"{name} is empty; name at least one value")


@configuration
class HybridConfig(StudentConfig):
    """A student with the rules, and where there are any the titles, as further terms of its score.

    Nothing is trained: the weights of the terms are chosen on validation (`recsys.rules.hybrid`).

    Attributes:
        student: the student whose scores they are added to.
        titles: add the cosine of titles as well, where the catalogue has titles.
        mask_seen: whether the weights are chosen with the items of the user's past left out, as `evaluation.mask_seen`
            says of the test. Without that, an item of the history has a weight of its own: how likely it comes again.
    """

    recommender: ClassVar[str] = "recsys.rules.hybrid:Hybrid"
    maker: ClassVar[str] = "recsys.rules.hybrid:make_hybrid"
    with_rules: ClassVar[bool] = True
    kind: Literal["hybrid"]
    student: str
    titles: bool = True
    mask_seen: bool = True

    @property
    def made_from(self) -> str:
        return self.student


@configuration
class HybridModelConfig:
    """What a hybrid's checkpoint says of it.

    Attributes:
        student: kind and configuration of the student.
        rules_weight, title_weight: of the two terms beside the student's score.
        repeat_weight: added to the score of every item of the history.
    """

    kind: Literal["hybrid"] = "hybrid"
    student: dict[str, Any]
    rules: RulesConfig
    rules_weight: float
    title_weight: float
    repeat_weight: float = 0.0
