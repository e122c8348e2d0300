"""What training a teacher will take, from the shapes of its weights: of a pretrained model its configuration is read
and nothing else, so a model of any size can be asked about on any machine.

Memory is that of one worker on its GPU: weights, gradients and the optimiser's state, shared out as ZeRO says, what the
backward pass keeps of each layer, and the scores. It is a floor: CUDA itself, fragmentation and ZeRO-3's gathered
layers come on top, so a card counts as large enough with a tenth to spare. Time follows from the operations of the
matrix products at 30 % of a card's bf16 peak, an assumption that nothing here has measured.

Legend: H width, I width of the feed-forward layers, M layers.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from recsys.config import to_dict
from recsys.data.prepared import PreparedDataset
from recsys.decoders.loading import load_transformers_config
from recsys.kinds import TeacherConfig
from recsys.settings import Settings, TeacherSettings
from recsys.stages.estimate import duration
from recsys.teachers.bigrec.config import BIGRecConfig
from recsys.teachers.config import E4SRecConfig, HLLMConfig
from recsys.training.config import TrainingConfig
from recsys.training.throughput import PEAKS

FROM_SCRATCH = "from-scratch"
CARDS = {"L4": 24, "A10G": 24, "RTX 4090": 24, "L40S": 48, "A100": 80, "H100": 80, "H200": 141}
"""GB of memory."""
_UTILISATION = 0.3
_PROMPT = 16  # vectors of an instruction, about


@dataclass(frozen=True)
class Size:
    """A teacher.

    Attributes:
        weights, trained: numbers, and those of them that are trained.
        layers, width, feed_forward: M, H and I of its decoder.
        scored: numbers that each position is scored against: words, or items.
        row_tokens: positions of one training row (a window, or a prompt) at most.
    """

    weights: int
    trained: int
    layers: int
    width: int
    feed_forward: int
    scored: int
    row_tokens: int


@dataclass(frozen=True)
class Memory:
    """Bytes on the device of one worker."""

    weights: float
    gradients: float
    optimizer: float
    activations: float

    @property
    def total(self) -> float:
        return self.weights + self.gradients + self.optimizer + self.activations


def size_of(config: TeacherConfig, dataset: PreparedDataset) -> Size:
    """Its size, by a model on PyTorch's meta device, which has shapes and no numbers.

    Raises:
        UserError: the configuration of its language model is not there.
    """
    import torch

    with torch.device("meta"):
        model, decoder, head = _blank(config, dataset.num_items)
    assert all(parameter.is_meta for parameter in model.parameters())
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return Size(
        weights=sum(size for size, _ in sizes),
        trained=sum(size for size, learns in sizes if learns),
        layers=decoder.num_hidden_layers,
        width=decoder.hidden_size,
        feed_forward=decoder.intermediate_size,
        scored=head or dataset.num_items,
        row_tokens=config.max_tokens if isinstance(config, BIGRecConfig) else _PROMPT + dataset.max_history,
    )


def _blank(config: TeacherConfig, num_items: int) -> tuple[Any, Any, int]:
    """The model, its decoder's configuration, and the words it scores if any."""
    if isinstance(config, BIGRecConfig):
        from recsys.teachers.bigrec.language_model import new_language_model

        if config.base == FROM_SCRATCH:
            from transformers import LlamaConfig

            values = LlamaConfig(
                vocab_size=config.vocabulary,
                hidden_size=config.width,
                intermediate_size=8 * math.ceil(config.width / 3),
                num_hidden_layers=config.layers,
                num_attention_heads=config.heads,
                tie_word_embeddings=True,
            ).to_dict()
        else:
            values = load_transformers_config(config.base).to_dict()
        lm = new_language_model(dataclasses.replace(config, base_config=values))
        return lm, lm.config, int(lm.config.vocab_size)
    from recsys.decoders.decoder import pretrained_config

    model: Any
    if isinstance(config, E4SRecConfig):
        from recsys.teachers.e4srec import E4SRec

        if config.llm != FROM_SCRATCH:
            values = pretrained_config(config.llm, config.base_layers)
            config = dataclasses.replace(config, llm_config=values, instruction_vectors=_PROMPT)
        model = E4SRec(config, num_items=num_items)
    else:
        from recsys.teachers.hllm import HLLM

        assert isinstance(config, HLLMConfig), config.kind
        if config.user_model != FROM_SCRATCH:
            values = pretrained_config(config.user_model, config.base_layers)
            config = dataclasses.replace(config, user_config=values)
        model = HLLM(config, num_items=num_items)
    if model.lora is not None:
        model.adapt(model.lora)
    return model, model.decoder.config, 0


def memory_of(size: Size, training: TrainingConfig, workers: int) -> Memory:
    """What one of some workers holds on its device."""
    deepspeed = training.deepspeed
    stage = deepspeed.zero_stage if deepspeed else 0
    half = training.precision == "bf16"
    number = 2 if half and deepspeed else 4  # autocast keeps weights in fp32
    moments = size.trained * (12 if half and deepspeed else 8)  # and the fp32 copy that DeepSpeed trains
    rows = -(-training.batch_size // (workers * training.accumulation))
    tokens = rows * size.row_tokens
    of_layer = 8 * size.width + 4 * size.feed_forward
    kept = size.layers * (size.width if training.checkpointing else of_layer) + of_layer * training.checkpointing
    return Memory(
        weights=0
        if deepspeed and deepspeed.offload_parameters
        else size.weights * number / (workers if stage > 2 else 1),
        gradients=size.trained * number / (workers if stage > 1 else 1),
        optimizer=0 if deepspeed and deepspeed.offload_optimizer else moments / (workers if stage else 1),
        activations=tokens * (kept * (2 if half else 4) + 2 * 4 * size.scored),
    )


def epoch_operations(size: Size, config: TeacherConfig, dataset: PreparedDataset) -> float:
    """Floating-point operations of an epoch: forward, backward, and once more for the share of weights that is trained.
    Of BIGRec it is the most that it can be, for prompts of `max_tokens`."""
    rows = len(dataset.rows("train"))
    if isinstance(config, BIGRecConfig):
        tokens = min(rows, config.train_rows or rows) * size.row_tokens
    else:
        windows = max(len(dataset.user_ids), rows // dataset.max_history)
        tokens = rows + windows * _PROMPT
    return 2.0 * size.weights * tokens * (2 + size.trained / size.weights)


def lines(settings: Settings, dataset: PreparedDataset) -> list[str]:
    """What it will take, to print.

    Raises:
        UserError: see `size_of`.
    """
    teacher: TeacherSettings = settings.teacher
    training, workers = teacher.training, teacher.scaling.workers
    size = size_of(teacher.model, dataset)
    memory = memory_of(size, training, workers)
    operations = epoch_operations(size, teacher.model, dataset)
    how = f"ZeRO-{training.deepspeed.zero_stage}" if training.deepspeed else "data-parallel"
    parts = ", ".join(f"{name} {value / 1e9:.1f}" for name, value in to_dict(memory).items())
    told = [
        f"estimate: {teacher.model.kind}, {size.weights / 1e6:,.0f} million weights, {size.trained / 1e6:,.1f} million "
        f"of them trained, {size.layers} layers {size.width} wide",
        f"estimate: {memory.total / 1e9:.1f} GB on each of {workers} worker{'s' * (workers > 1)} at the least ({how}, "
        f"{training.precision}: {parts})",
        f"estimate: {operations:.3g} operations an epoch; time at {_UTILISATION:.0%} of each card's bf16 peak:",
        f"{'card':>9} {'GB':>5} {'fits':>5} {'an epoch':>10} {f'{training.epochs} epochs':>12}",
    ]
    for card, gigabytes in CARDS.items():
        seconds = operations / (workers * PEAKS[card] * _UTILISATION)
        fits = "yes" if fits_card(memory, card) else "no"
        told.append(
            f"{card:>9} {gigabytes:>5} {fits:>5} {duration(seconds):>10} {duration(seconds * training.epochs):>12}"
        )
    return told


def fits_card(memory: Memory, card: str) -> bool:
    return memory.total <= 0.9e9 * CARDS[card]
