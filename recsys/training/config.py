"""What the training loop is asked to do; the same for teachers and students."""

from typing import Literal

from recsys.config import Field, configuration

Windowing = Literal["windows", "overlapping", "exact", "prefixes"]


@configuration
class DeepSpeedConfig:
    """ZeRO training through DeepSpeed.

    Attributes:
        zero_stage: what the workers share out among them: the optimiser's state (1), gradients too (2), weights too (3:
            the model need not fit one GPU).
        offload_optimizer: keep the optimiser's state in the host's memory and step there; DeepSpeed compiles that step
            once for a machine, with the C++ compiler that must be there.
        offload_parameters: keep this worker's share of the weights in the host's memory.
    """

    zero_stage: Literal[0, 1, 2, 3] = 1
    offload_optimizer: bool = False
    offload_parameters: bool = False

    def __post_init__(self) -> None:
        if self.offload_optimizer and not self.zero_stage:
            raise ValueError("offload_optimizer needs ZeRO; set zero_stage to 1, 2 or 3, or leave it out")
        if self.offload_parameters and self.zero_stage < 3:
            raise ValueError(f"offload_parameters is of ZeRO-3, but zero_stage is {self.zero_stage}; set it to 3")


@configuration
class TrainingConfig:
    """Optimiser, schedule and stopping.

    Attributes:
        epochs: passes over the training rows at most.
        batch_size: windows (of `histories`) a step, over all workers together.
        warmup_steps: linear warm-up; afterwards the rate is constant or falls along a cosine to zero.
        patience: epochs without a better validation metric before training stops; 0 never stops early.
        metric: validation metric that selects the checkpoint, by full ranking.
        mask_seen: whether validation masks the items of the history.
        histories: what of its past a training row is learned with, where evaluation shows it the last `max_history`
            items. `windows` cuts a user's sequence into windows that do not overlap, at another place in each epoch,
            and learns every position of them: a row sees half of that, on average, where users have more.
            `overlapping` lets each window begin in the middle of the one before: a row sees at least half, and an epoch
            reads at most twice as much. `exact` shows all of it, by a window for each row that has more past than fits
            (the others share one). `prefixes` gives every row a window of its own, so that a batch is of rows instead
            of sequences, as published recipes count it: the dearest. Where nobody has more than `max_history` items,
            the first three are the same.
        accumulation: parts that each process's share of a batch is computed in, one after the other: memory falls, the
            result stays the same.
        checkpointing: keep only the input of each layer of a language model and compute the rest again in the backward
            pass: memory falls, a step takes about a third longer.
        precision: bf16 autocasts where the processor has it.
        deepspeed: train through DeepSpeed ZeRO instead of plain data parallelism.
    """

    epochs: int = Field(default=100, ge=1)
    batch_size: int = Field(default=128, ge=1)
    histories: Windowing = "windows"
    accumulation: int = Field(default=1, ge=1)
    checkpointing: bool = False
    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    warmup_steps: int = Field(default=0, ge=0)
    schedule: Literal["constant", "cosine"] = "constant"
    gradient_clipping: float = Field(default=0.0, ge=0)
    patience: int = Field(default=10, ge=0)
    metric: Literal["ndcg@5", "ndcg@10", "ndcg@20", "hr@10", "hr@20", "mrr"] = "ndcg@10"
    mask_seen: bool = True
    precision: Literal["fp32", "bf16"] = "fp32"
    seed: int = 0
    deepspeed: DeepSpeedConfig | None = None
