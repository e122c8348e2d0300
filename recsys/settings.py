"""The one configuration file of a project: every job reads it whole and uses the sections it needs."""

import os
from typing import Any, Literal

from recsys import storage
from recsys.config import Field, NotInKey, configuration
from recsys.data.config import DataConfig
from recsys.decoders.config import CompressionConfig, ItemEncoderConfig, LowRankConfig
from recsys.diagnosis.config import WorthItConfig
from recsys.evaluation.config import EvaluationConfig
from recsys.experiment.config import ExperimentConfig
from recsys.losses.config import AlignmentConfig, DistillationConfig, RecommendationLossConfig
from recsys.names import RESERVED_FOR_PROJECTS, RESERVED_FOR_STUDENTS, Name
from recsys.rules.config import RULES, RULES_WITH_TITLES, RulesConfig, RulesTuningConfig
from recsys.serving.config import RecommendationsConfig, ServingConfig
from recsys.signals.config import SignalsConfig
from recsys.students.config import StudentModelConfig
from recsys.teachers.config import HLLMConfig, TeacherModelConfig
from recsys.tracking import TrackingConfig
from recsys.training.config import TrainingConfig


@configuration
class WorkersConfig:
    """How a training run is spread over the cluster.

    Attributes:
        workers: processes, each with its share of the rows.
        cpus: logical cores a worker asks for; less than one leaves room for readers.
        gpus: GPUs a worker asks for; 0 trains on CPU with gloo, otherwise NCCL.
        max_failures: how often a crashed worker group is restarted from its last checkpoint.
    """

    workers: int = Field(default=1, ge=1)
    cpus: float = Field(default=0.9, gt=0)
    gpus: float = Field(default=0, ge=0)
    max_failures: int = Field(default=3, ge=0)


@configuration
class TeacherSettings:
    """The teacher and where it is trained.

    Attributes:
        folds: users are dealt into this many folds, and for each one more teacher is trained without them, which then
            ranks their training rows: a teacher is overconfident on rows that it has learned. 0 lets the one teacher
            rank all rows. Training costs 1 + folds times as much. Not for teachers that are built from a student of
            the project: that student knows all rows.
    """

    model: TeacherModelConfig = HLLMConfig()
    training: TrainingConfig = TrainingConfig()
    scaling: NotInKey[WorkersConfig] = WorkersConfig(workers=2)
    folds: int = Field(default=0, ge=0, le=20)

    def __post_init__(self) -> None:
        if self.folds == 1:
            raise ValueError("folds is 1, which would leave nothing to learn from; use 0 or at least 2")
        for name in self.model.built_from:
            if self.folds:
                raise ValueError(
                    f"folds is {self.folds}, but the student that model.{name} names has learned the rows of every "
                    "fold; set folds to 0, or choose a teacher that is built from no student"
                )


@configuration
class StudentSettings:
    """One student: its architecture, recommendation loss and, when it is distilled, what it takes from the teacher.

    Attributes:
        distillation: what it takes from the teacher's signals.
        alignment: block-wise losses of a student of kind slmrec, and what it takes from its teacher's states.
    """

    model: StudentModelConfig
    loss: RecommendationLossConfig = RecommendationLossConfig()
    distillation: DistillationConfig | None = None
    alignment: AlignmentConfig | None = None
    training: TrainingConfig = TrainingConfig()
    scaling: NotInKey[WorkersConfig] = WorkersConfig()

    def __post_init__(self) -> None:
        if self.distillation is not None and not self.model.trained:
            raise ValueError(
                f"a {self.model.kind} student is not trained; leave distillation out, or train it and make it of that"
            )
        if self.alignment is not None and not self.model.layered:
            raise ValueError("alignment compares layers and is for students of kind slmrec alone; leave it out")
        if self.model.layered and self.distillation is not None and self.distillation.embedding is not None:
            raise ValueError("a student of kind slmrec has its teacher's item vectors; set distillation.embedding=null")
        if self.model.layered and self.distillation is not None and self.distillation.distiller is not None:
            raise ValueError("distillers are for students of kind sasrec or gru4rec; set distillation.distiller=null")
        if self.stored and self.model.made_from:
            raise ValueError("alignment.stored reads states of the project's teacher; leave it or model.teacher out")

    @property
    def distilled(self) -> bool:
        """Whether it learns from a teacher's answers or states."""
        return self.distillation is not None or (self.alignment is not None and self.alignment.teaches)

    @property
    def stored(self) -> bool:
        """Whether it learns from the teacher's stored states."""
        return self.alignment is not None and self.alignment.stored

    @property
    def needs_teacher(self) -> bool:
        """Whether a teacher is there before it is made: to learn from, to be cut from, or to be compressed."""
        return self.distilled or self.model.made_from is not None


@configuration
class RulesSettings:
    """The sequential rules, and what they are fitted with.

    Attributes:
        model: the constants, or where the search for them begins.
        tuning: the search on validation; null takes the constants as they are.
        titles: the item language model whose vectors of titles are compared; null for rules without titles.
        cpus: cores the fitting asks for.
    """

    model: RulesConfig = RulesConfig()
    tuning: RulesTuningConfig | None = RulesTuningConfig()
    titles: ItemEncoderConfig | None = ItemEncoderConfig()
    cpus: NotInKey[float] = Field(default=0.9, gt=0)


@configuration
class DepthConfig:
    """The depth study: how many of the teacher's layers the recommendations need.

    Attributes:
        depths: numbers of layers to try; empty for 1, 2, 4, … below the teacher's depth.
        ways: `read-out` reads the trained teacher at that layer, nothing retrained; `alone` trains the cut model
            without its teacher; `distilled` with it, by `alignment` (its blocks lowered where they do not divide).
        start, rows: of the cut models (`recsys.students.config.SLMRecConfig`).
        tolerance: percent of the whole teacher's NDCG@10 on validation that the recommended depth may lose.
        compress: measure the whole teacher and every trained depth with smaller weights as well, nothing retrained:
            `int8` or `int4` weights, some matrices of `low-rank` (`low_rank`), `pruned` to a share of the feed-forward
            neurons (`neurons`) or of the `heads` (`heads`), or several of them as in `pruned+int4`.
    """

    depths: tuple[int, ...] = ()
    ways: tuple[Literal["read-out", "alone", "distilled"], ...] = ("read-out", "alone", "distilled")
    start: Literal["teacher", "fresh"] = "teacher"
    rows: Literal["every-position", "one-a-user"] = "every-position"
    alignment: AlignmentConfig = AlignmentConfig()
    training: TrainingConfig = TrainingConfig()
    scaling: NotInKey[WorkersConfig] = WorkersConfig()
    tolerance: float = Field(default=1.0, ge=0)
    compress: tuple[str, ...] = ()
    low_rank: LowRankConfig = LowRankConfig()
    neurons: float = Field(default=0.5, gt=0, lt=1)
    heads: float = Field(default=0.5, gt=0, lt=1)

    def __post_init__(self) -> None:
        for name in self.compress:
            self.compression(name)

    def compression(self, name: str) -> CompressionConfig:
        """What one of `compress` means."""
        parts: dict[str, dict[str, Any]] = {
            "int8": {"weights": "int8"},
            "int4": {"weights": "int4"},
            "low-rank": {"low_rank": self.low_rank},
            "pruned": {"neurons": self.neurons},
            "heads": {"heads": self.heads},
        }
        asked = name.split("+")
        if unknown := [part for part in asked if part not in parts]:
            raise ValueError(f"compress has {unknown[0]!r}; known: {', '.join(parts)}, or several joined by +")
        if {"int8", "int4"} <= set(asked):
            raise ValueError(f"compress has {name!r}, but weights are int8 or int4; name one of them")
        return CompressionConfig(**{key: value for part in asked for key, value in parts[part].items()})


@configuration
class PromotionConfig:
    """The gate that a student passes before an alias names it (`promote`).

    Attributes:
        metric: what the ladder measured, by the rule that `evaluation.mask_seen` shows.
        margin: how much more of it than the student that has the alias; negative allows a loss, as for a faster one.
        max_ms: the 95th percentile of the ladder's single histories may take no longer; null: any time.
        across_datasets: let it replace a student that was measured on another dataset, with which it cannot be
            compared.
    """

    metric: Literal["ndcg@5", "ndcg@10", "ndcg@20", "hr@5", "hr@10", "hr@20"] = "ndcg@10"
    margin: float = 0.0
    max_ms: float | None = Field(default=None, gt=0)
    across_datasets: bool = False


@configuration
class Settings:
    """Everything.

    Attributes:
        name: of the project; its artefacts lie under `<storage>/<name>`.
        storage: absolute path or URI; default `$RECSYS_STORAGE`, else `./runs`.
    """

    name: Name = "demo"
    storage: str | None = None
    data: DataConfig = DataConfig()
    rules: RulesSettings = RulesSettings()
    teacher: TeacherSettings = TeacherSettings()
    signals: SignalsConfig = SignalsConfig()
    students: dict[Name, StudentSettings] = Field(default_factory=dict)
    depth: DepthConfig = DepthConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    serving: ServingConfig = ServingConfig()
    experiment: ExperimentConfig = ExperimentConfig()
    promotion: PromotionConfig = PromotionConfig()
    recommendations: RecommendationsConfig = RecommendationsConfig()
    worth_it: WorthItConfig = WorthItConfig()
    tracking: TrackingConfig = TrackingConfig()

    def __post_init__(self) -> None:
        if self.name in RESERVED_FOR_PROJECTS:
            raise ValueError(f"a project cannot be called {self.name!r}, the folder of the recorded runs; name another")
        if taken := [name for name in self.students if name in RESERVED_FOR_STUDENTS]:
            raise ValueError(f"students.{taken[0]}: a student cannot be called {taken[0]!r}; choose another name")
        if self.storage is not None and not self.storage.strip():
            raise ValueError("storage is empty; name a folder or a URI, or leave it out")

    @property
    def layout(self) -> "Layout":
        root = storage.absolute(self.storage or os.environ.get("RECSYS_STORAGE") or "runs")
        return Layout(root, self.name, signals=self.signals.name)


class Layout:
    """Where everything lies under the storage root.

    Args:
        signals: name of the set of teacher signals that the project's configuration makes.
    """

    def __init__(self, root: str, name: str, *, signals: str = "") -> None:
        self.storage_root = root
        self.root = storage.join(root, name)
        self.mlflow = storage.join(root, "mlflow")
        self.dataset = storage.join(self.root, "dataset")
        self.teacher = storage.join(self.root, "teacher")
        self.signals = self._signals(signals)
        self.chosen_rows = storage.join(self.root, f"chosen-rows-{signals}" if signals else "chosen-rows")
        self.depth = storage.join(self.root, "depth")
        self.results = storage.join(self.root, "results")
        self.report = storage.join(self.root, "report")
        self.worth_it = storage.join(self.root, "worth-it")
        self.events = storage.join(self.root, "events")
        self.experiment = storage.join(self.root, "experiment.json")
        self.promotions = storage.join(self.root, "promotions.json")
        self.recommendations = storage.join(self.root, "recommendations")
        self.train_runs = storage.join(self.root, "train")

    def sweep(self, name: str) -> str:
        return storage.join(self.root, "sweeps", name)

    def teacher_of_fold(self, fold: int) -> str:
        return storage.join(self.root, "teacher-folds", str(fold))

    def rules(self, kind: str) -> str:
        return storage.join(self.root, "rules", kind)

    def student(self, name: str) -> str:
        return storage.join(self.root, "students", name)

    def model(self, name: str) -> str:
        """The checkpoint of a student, of the teacher (`teacher`), or of rules by their kind."""
        if name == "teacher":
            return self.teacher
        return self.rules(name) if name in (RULES, RULES_WITH_TITLES) else self.student(name)

    def export(self, name: str) -> str:
        return storage.join(self.root, "exports", name)

    def signals_of(self, name: str | None) -> str:
        """The set of teacher signals that a student names; None is the one that the configuration makes."""
        return self.signals if name is None else self._signals(name)

    def _signals(self, name: str) -> str:
        return storage.join(self.root, f"signals-{name}" if name else "signals")
