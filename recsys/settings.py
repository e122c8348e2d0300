"""The one configuration file of a project: every job reads it whole and uses the sections it needs."""

import os
from dataclasses import replace
from typing import Annotated, Any, Literal

from recsys import storage
from recsys.config import Field, NotInKey, configuration
from recsys.data.config import DataConfig
from recsys.decoders.config import CompressionConfig, ItemEncoderConfig, LowRankConfig
from recsys.diagnosis.config import WorthItConfig
from recsys.evaluation.config import EvaluationConfig
from recsys.experiment.config import ExperimentConfig
from recsys.losses.config import AlignmentConfig, DistillationConfig, RecommendationLossConfig
from recsys.names import (
    RESERVED_FOR_ARMS,
    RESERVED_FOR_PROJECTS,
    RESERVED_FOR_STUDENTS,
    ModelName,
    Name,
    NameOrAlias,
)
from recsys.rules.config import RULES, RULES_WITH_TITLES, RulesConfig, RulesTuningConfig
from recsys.serving.assignment import ARMS, Arm, BuiltIn, Scoring
from recsys.serving.experiment import Experiment, check_experiment
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
class ReplicasConfig:
    """How an arm is spread over the cluster.

    Attributes:
        count: replicas, each with its own copy of the model.
        cpus: logical cores a replica asks for; it computes on that many threads, at least one.
        gpus: GPUs a replica asks for; 0 serves on CPU.
        batch: requests that wait at the same time and are answered in one pass, at most.
    """

    count: int = Field(default=1, ge=1)
    cpus: float = Field(default=0.9, gt=0)
    gpus: float = Field(default=0, ge=0)
    batch: int = Field(default=8, ge=1)


@configuration
class ArmConfig:
    """An arm beside teacher, student and null.

    Attributes:
        model: whose checkpoint it serves: a student of the project, `teacher`, or rules by their kind; or a version of
            the model registry, as it is when the deployment starts: `models:/NAME@ALIAS` or `models:/NAME/NUMBER` of
            the project NAME under the same storage, `@ALIAS` of this one.
        in_ingress: it lives in the replicas that take the HTTP requests, as the student does, so that no hop is paid;
            of `replicas`, only `batch` is its own then.
        scoring: as of `ServingConfig`.
        queue: requests that may wait in each replica of the ingress, beyond those that the arm's own replicas have
            taken (64 or two batches, each); further ones are refused with 503 and `Retry-After`.
        seconds: how long a request may wait for replicas of its own, its turn included.
    """

    model: ModelName
    in_ingress: bool = False
    replicas: ReplicasConfig = ReplicasConfig()
    scoring: Scoring = "exact"
    queue: NotInKey[int] = Field(default=64, ge=1)
    seconds: NotInKey[float] = Field(default=60, gt=0)

    def __post_init__(self) -> None:
        if self.scoring == "int8" and self.replicas.gpus:
            raise ValueError("scoring is int8, which is for CPUs; set replicas.gpus=0 or scoring=exact")


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


def _halves() -> dict[Arm, float]:
    return {"teacher": 0.5, "student": 0.5}


@configuration
class ServingConfig:
    """The A/B application.

    Attributes:
        arms: what is served of teacher, student and null; `null` answers popular items at once, so that what HTTP costs
            can be subtracted.
        further_arms: arms beside them, by name; all are served.
        student: the student that is served, a name of `students`; or `@champion`, the one that was promoted last under
            that alias (`PromotionConfig`), as it is when the deployment starts.
        split: share of users an arm gets when a request names none, by salted hash of the user id; they add up to 1.
        salt: hashed with the user id; another one assigns all users anew.
        default_arm: answers requests that name neither arm nor user.
        teacher_seconds: how long a request may wait for the teacher, its turn included.
        fallback: the arm, `student` or a further one, that answers for one that is late, busy or away, and the answer
            says so: users get their recommendations, and the experiment is analysed by the arm they were assigned to.
            With `none`, where the student is not served, and where the request itself names its arm, that is 503.
        shadow: share of the student's answers for which `shadow_arm` computes its own, unseen, to compare the two; who
            is chosen is a salted hash of the user id.
        shadow_arm: the teacher, or a further arm before it gets users.
        shadow_at_once: such computations at the same time in each replica; further ones are dropped and counted.
        host, port: where HTTP listens; the default host is reachable from this machine alone.
        max_k, max_history: what a request may ask for.
        max_ids: ids in each of `exclude` and `only` of a request.
        max_requests: requests in a batch; they are scored in one pass, which takes memory for so many catalogues.
        scoring: how the student scores the catalogue: `exact` in full precision; `int8` in 8 bits on a CPU, and what
            may be among the best in full precision, for several 100,000 items (docs/serving.md). Answers are the same.
        teacher_replicas, student_replicas: the student lives in the replicas that take the HTTP requests; there are two
            of them, so that one may go.
        surge: when the application is deployed again, new replicas start beside the old ones, which serve until then;
            that takes room for both. Without, replicas are stopped one by one before their successors start.
        log: keep what was shown to whom and what came of it (`POST /feedback`) under `<storage>/<name>/events`, a
            folder of a disk. It holds user ids, so it is off unless asked for.
        log_megabytes: what the finished files of the log may take; the oldest are removed first.
        start_seconds: how long replicas may take to load their models.
        measure_requests, measure_warmup: requests per arm, and before them some that do not count.
        measure_concurrency: kept-alive connections.
        measure_rates: requests a second, each of which is put on every arm in turn, in open loops
            (`recsys.serving.load`).
        measure_connections: numbers of connections, likewise, in closed loops.
        measure_seconds, measure_settle: how long each such load counts, and how long before it does.
        measure_timeout: seconds after which a request under load is given up.
        measure_clients: processes that send it.
        measure_p99_ms: the objective: 99 % of the answers within it, and less than 1 % of the requests without one.
        measure_core_hour: price of a core for an hour, in any currency; tells what a million answers cost.
    """

    arms: tuple[BuiltIn, ...] = ARMS
    further_arms: dict[Name, ArmConfig] = Field(default_factory=dict)
    student: NameOrAlias = "sasrec-distilled"
    split: NotInKey[dict[Arm, float]] = Field(default_factory=_halves)
    default_arm: NotInKey[Arm] = "student"
    salt: NotInKey[str] = Field(default="ab-1", min_length=1, max_length=256)
    teacher_seconds: NotInKey[float] = Field(default=60, gt=0)
    fallback: NotInKey[Arm] = "student"
    shadow: NotInKey[float] = Field(default=0, ge=0, le=1)
    shadow_arm: NotInKey[Arm] = "teacher"
    shadow_at_once: NotInKey[int] = Field(default=4, ge=1)
    host: NotInKey[str] = "127.0.0.1"
    port: NotInKey[int] = Field(default=8000, ge=1, le=65535)
    max_k: int = Field(default=100, ge=1)
    max_history: int = Field(default=1000, ge=1)
    max_ids: NotInKey[int] = Field(default=10_000, ge=1)
    max_requests: NotInKey[int] = Field(default=32, ge=1)
    scoring: Scoring = "exact"
    teacher_replicas: ReplicasConfig = ReplicasConfig()
    student_replicas: ReplicasConfig = ReplicasConfig(count=2, cpus=0.45)
    surge: NotInKey[bool] = True
    log: NotInKey[bool] = False
    log_megabytes: NotInKey[int] = Field(default=1000, ge=1)
    start_seconds: NotInKey[float] = Field(default=300, gt=0)
    measure_requests: int = Field(default=300, ge=1)
    measure_warmup: int = Field(default=30, ge=0)
    measure_concurrency: int = Field(default=1, ge=1)
    measure_rates: tuple[Annotated[float, Field(gt=0)], ...] = ()
    measure_connections: tuple[Annotated[int, Field(ge=1)], ...] = ()
    measure_seconds: float = Field(default=20, gt=0)
    measure_settle: float = Field(default=3, ge=0)
    measure_timeout: float = Field(default=5, gt=0)
    measure_clients: int = Field(default=2, ge=1)
    measure_p99_ms: float = Field(default=100, gt=0)
    measure_core_hour: float | None = Field(default=None, gt=0)

    def __post_init__(self) -> None:
        for name, arm in self.further_arms.items():
            if name in (*ARMS, *RESERVED_FOR_ARMS):
                raise ValueError(f"a further arm cannot be called {name!r}; choose another name")
            if arm.in_ingress and replace(arm.replicas, batch=1) != ReplicasConfig(batch=1):
                raise ValueError(
                    f"further_arms.{name} is in the ingress, whose replicas student_replicas describes; leave its own "
                    "count, cpus and gpus out, or set in_ingress to false"
                )
        inside = {f"further_arms.{name}.": arm.scoring for name, arm in self.further_arms.items() if arm.in_ingress}
        for place, scoring in {"": self.scoring, **inside}.items():
            if scoring == "int8" and self.student_replicas.gpus:
                raise ValueError(
                    f"{place}scoring is int8, which is for CPUs; set student_replicas.gpus=0 or {place}scoring=exact"
                )
        check_experiment(self.served, self.split, self.shadow, self.shadow_arm)
        if self.default_arm not in self.served:
            raise ValueError(f"default_arm {self.default_arm} is not one of arms ({', '.join(self.served)})")
        if self.fallback not in (known := ("student", "none", *self.further_arms)):
            raise ValueError(f"fallback {self.fallback} cannot answer for another arm; known: {', '.join(known)}")

    @property
    def served(self) -> tuple[Arm, ...]:
        """All arms that are served, further ones by name."""
        return (*self.arms, *sorted(self.further_arms))

    @property
    def models(self) -> dict[Arm, ArmConfig]:
        """The arms that have a model, teacher and student described as further ones are; `replicas` of one that lives
        in the ingress are those of the ingress."""
        ingress = self.student_replicas
        own: dict[Arm, ArmConfig] = {
            "teacher": ArmConfig(model="teacher", replicas=self.teacher_replicas, seconds=self.teacher_seconds),
            "student": ArmConfig(
                model=self.student, in_ingress=True, replicas=ingress, scoring=self.scoring, queue=256
            ),
        }
        further = {
            name: replace(arm, replicas=replace(ingress, batch=arm.replicas.batch)) if arm.in_ingress else arm
            for name, arm in self.further_arms.items()
        }
        return {**{arm: own[arm] for arm in own if arm in self.arms}, **further}

    @property
    def experiment(self) -> Experiment:
        """How the experiment begins."""
        return Experiment(
            arms=self.served, split=self.split, salt=self.salt, shadow=self.shadow, shadow_arm=self.shadow_arm
        )


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
class RecommendationsConfig:
    """Recommendations for every user (`recommend_all`).

    Attributes:
        k: items for each.
        mask_seen: never recommend an item of the history.
        users_per_shard: users a finished file holds; an interrupted run repeats at most the shards in work, and there
            is work for at most as many actors as shards.
        batch_size: users in one pass of the model.
        actors, max_actors: the actor pool; with `max_actors` it grows to that many where the cluster has room.
        cpus, gpus: what an actor asks for.
    """

    k: int = Field(default=10, ge=1)
    mask_seen: bool = True
    users_per_shard: int = Field(default=8192, ge=1)
    batch_size: NotInKey[int] = Field(default=128, ge=1)
    actors: NotInKey[int] = Field(default=1, ge=1)
    max_actors: NotInKey[int | None] = Field(default=None, ge=1)
    cpus: NotInKey[float] = Field(default=0.9, gt=0)
    gpus: NotInKey[float] = Field(default=0, ge=0)

    def __post_init__(self) -> None:
        if self.max_actors is not None and self.max_actors < self.actors:
            raise ValueError(f"max_actors is {self.max_actors}, less than actors ({self.actors}); raise it")

    @property
    def resources(self) -> tuple[float, float]:
        """Cores and GPUs of an actor."""
        return self.cpus, self.gpus


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
