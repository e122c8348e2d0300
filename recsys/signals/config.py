"""What the pass of a teacher leaves for the students, and how it is run."""

from typing import Literal

from recsys.config import Field, NotInKey, configuration
from recsys.losses.config import SET_NAME


@configuration
class StatesConfig:
    """The teacher's states that the pass stores of the training rows, for students taught block by block.

    Attributes:
        blocks: after each of this many blocks of layers; it divides the teacher's depth.
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
        train_rows: of the training rows, how many. null leaves it to the kind of teacher: all of them, or 10,000 for
            BIGRec, which takes longest.
        choose_rows: which they are: a `random` sample; those that a student is most uncertain of (`uncertainty`); as
            many target items as possible, in turns (`coverage`); those where a student's list and that of the
            sequential rules differ most (`disagreement`). All but `random` need `train_rows`.
        choose_student: the student, trained alone, that `uncertainty` and `disagreement` ask.
        mask_history: never rank an item of the user's past.
        log_mass: keep for each row the logarithm of the softmax mass outside the K, of teachers that score by logits.
        rows_per_shard: rows a finished file holds at most; an interrupted pass repeats at most the shards in work, and
            there is work for at most as many actors as shards. null leaves it to the kind of teacher: 8,192, or 256 for
            BIGRec.
        batch_size: windows of a sequence in one forward pass.
        actors, max_actors: the actor pool; with `max_actors` it grows to that many where the cluster has room.
        cpus, gpus: what each process of an actor asks for.
        tensor_parallel: processes per actor, over which the teacher's matrices are split (DeepSpeed's AutoTP), for
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
    # What is chosen has a key of its own, which is in that of the signals (`recsys.stages.row_choice`).
    choose_rows: NotInKey[Literal["random", "uncertainty", "coverage", "disagreement"]] = "random"
    choose_student: NotInKey[str | None] = None
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

    @property
    def resources(self) -> tuple[float, float]:
        """Cores and GPUs of an actor."""
        return self.cpus * self.tensor_parallel, self.gpus * self.tensor_parallel

    @property
    def choice(self) -> dict[str, str]:
        """How training rows are chosen, as signals say it of themselves; nothing where they are a random sample."""
        said = {"choose_rows": self.choose_rows, "choose_student": self.choose_student}
        return {name: value for name, value in said.items() if value is not None and self.choose_rows != "random"}

    def __post_init__(self) -> None:
        asks = self.choose_rows in ("uncertainty", "disagreement")
        if asks and self.choose_student is None:
            raise ValueError(f"choose_rows={self.choose_rows} asks a student; name it in choose_student")
        if self.choose_student is not None and not asks:
            raise ValueError(f"choose_rows={self.choose_rows} asks no student; leave choose_student out")
        if self.choose_rows != "random" and (self.train_rows is None or "train" not in self.splits):
            raise ValueError(
                f"choose_rows={self.choose_rows} chooses among the training rows; set train_rows to how many, and have "
                "train among splits"
            )
        if self.max_actors is not None and self.max_actors < self.actors:
            raise ValueError(f"max_actors is {self.max_actors}, less than actors ({self.actors}); raise it")
        if self.tensor_parallel > 1 and self.gpus not in (0, 1):
            raise ValueError(
                f"gpus is {self.gpus:g} per process, but with tensor_parallel each has one of its own; set it to 1"
            )
        if self.kernel_injection and (self.tensor_parallel > 1 or not self.gpus):
            raise ValueError("kernel_injection is for one process with a GPU; set gpus to 1 and tensor_parallel to 1")
