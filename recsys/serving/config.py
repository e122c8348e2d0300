"""How arms are served, and how everyone is recommended something."""

from dataclasses import replace
from typing import Annotated, Literal

from recsys.config import Field, NotInKey, configuration
from recsys.names import RESERVED_FOR_ARMS, ModelName, Name, NameOrAlias, read_exported
from recsys.serving.assignment import ARMS, Arm, BuiltIn, Scoring
from recsys.serving.experiment import Experiment, check_experiment

Proxy = Literal["serve", "haproxy"]


@configuration
class ReplicasConfig:
    """How an arm is spread over the cluster.

    Attributes:
        count: replicas, each with its own copy of the model.
        max_count: with it, Ray Serve adds replicas, up to this many, while each has more than `batch` requests in hand
            or waiting, and takes them away again down to `count`; null: there are always `count`.
        cpus: logical cores a replica asks for; it computes on that many threads, at least one.
        gpus: GPUs a replica asks for; 0 serves on CPU.
        batch: requests that wait at the same time and are answered in one pass, at most.
    """

    count: int = Field(default=1, ge=1)
    max_count: int | None = Field(default=None, ge=1)
    cpus: float = Field(default=0.9, gt=0)
    gpus: float = Field(default=0, ge=0)
    batch: int = Field(default=8, ge=1)

    def __post_init__(self) -> None:
        if self.max_count is not None and self.max_count < self.count:
            raise ValueError(f"max_count is {self.max_count}, less than count ({self.count}); raise it")


@configuration
class ArmConfig:
    """An arm beside teacher, student and null.

    Attributes:
        model: whose checkpoint it serves: a student of the project, `teacher`, or rules by their kind; or a version of
            the model registry, as it is when the deployment starts: `models:/NAME@ALIAS` or `models:/NAME/NUMBER` of
            the project NAME under the same storage, `@ALIAS` of this one; or `export:NAME`, what `ray_jobs.export` made
            of the model NAME, on CPUs (docs/export.md).
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
        if read_exported(self.model) is not None and (self.replicas.gpus or self.scoring != "exact"):
            raise ValueError(f"{self.model} is scored by its program, on a CPU; set replicas.gpus=0 and scoring=exact")
        if self.scoring == "int8" and self.replicas.gpus:
            raise ValueError("scoring is int8, which is for CPUs; set replicas.gpus=0 or scoring=exact")


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
        proxy: what takes the HTTP requests, chosen when Serve starts: its own proxy (`serve`), or `haproxy`, which
            hands them to the replicas without a hop through Ray (docs/serving.md#the-proxy).
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
    proxy: Proxy = "serve"
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
            if arm.in_ingress and read_exported(arm.model) is not None and self.student_replicas.gpus:
                raise ValueError(
                    f"further_arms.{name}: {arm.model} is for CPUs, but the ingress has GPUs; set in_ingress=false"
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
