"""The one configuration file of a project: every job reads it whole and uses the sections it needs."""

import os
from typing import Literal

from recsys import storage
from recsys.config import Field, configuration
from recsys.data.config import DataConfig
from recsys.evaluation.config import EvaluationConfig
from recsys.losses.config import DistillationConfig, RecommendationLossConfig
from recsys.students.config import StudentModelConfig
from recsys.teachers.config import SignalsConfig, TeacherConfig
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
    """The teacher and where it is trained."""

    model: TeacherConfig = TeacherConfig()
    training: TrainingConfig = TrainingConfig()
    scaling: WorkersConfig = WorkersConfig(workers=2)


@configuration
class StudentSettings:
    """One student: its architecture, recommendation loss and, when it is distilled, what it takes from the teacher."""

    model: StudentModelConfig
    loss: RecommendationLossConfig = RecommendationLossConfig()
    distillation: DistillationConfig | None = None
    training: TrainingConfig = TrainingConfig()
    scaling: WorkersConfig = WorkersConfig()


@configuration
class ServingConfig:
    """The A/B application.

    Attributes:
        student: the student that is served, a name of `students`.
        split: share of users an arm gets when a request names none; assignment is by salted hash of the user id.
    """

    student: str = "sasrec-distilled"
    split: dict[Literal["teacher", "student", "null"], float] = Field(
        default_factory=lambda: {"teacher": 0.5, "student": 0.5}
    )
    salt: str = "ab-1"
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=1, le=65535)
    max_k: int = Field(default=100, ge=1)
    max_history: int = Field(default=1000, ge=1)
    replicas: int = Field(default=1, ge=1)
    cpus: float = Field(default=0.4, gt=0)
    gpus: float = Field(default=0, ge=0)
    measure_requests: int = Field(default=300, ge=1)
    measure_warmup: int = Field(default=30, ge=0)
    measure_concurrency: int = Field(default=1, ge=1)


@configuration
class Settings:
    """Everything.

    Attributes:
        name: of the project; its artefacts lie under `<storage>/<name>`.
        storage: absolute path or URI; default `$RECSYS_STORAGE`, else `./runs`.
    """

    name: str = Field(default="demo", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    storage: str | None = None
    data: DataConfig = DataConfig()
    teacher: TeacherSettings = TeacherSettings()
    signals: SignalsConfig = SignalsConfig()
    students: dict[str, StudentSettings] = Field(default_factory=dict)
    evaluation: EvaluationConfig = EvaluationConfig()
    serving: ServingConfig = ServingConfig()
    tracking: TrackingConfig = TrackingConfig()

    @property
    def layout(self) -> "Layout":
        return Layout(storage.absolute(self.storage or os.environ.get("RECSYS_STORAGE") or "runs"), self.name)


class Layout:
    """Where everything lies under the storage root."""

    def __init__(self, root: str, name: str) -> None:
        self.storage_root = root
        self.root = storage.join(root, name)
        self.mlflow = storage.join(root, "mlflow")
        self.dataset = storage.join(self.root, "dataset")
        self.teacher = storage.join(self.root, "teacher")
        self.signals = storage.join(self.root, "signals")
        self.results = storage.join(self.root, "results")
        self.report = storage.join(self.root, "report")
        self.train_runs = storage.join(self.root, "train")

    def student(self, name: str) -> str:
        return storage.join(self.root, "students", name)
