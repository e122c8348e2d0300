"""Sizes of language models that nobody here could load, from their configurations."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from recsys.config import load_config
from recsys.data.prepared import PreparedDataset
from recsys.decoders.config import LoRAConfig
from recsys.losses.config import RecommendationLossConfig
from recsys.settings import Settings
from recsys.stages.teacher_size import Memory, Size, epoch_operations, fits_card, lines, memory_of, size_of
from recsys.teachers.bigrec.config import BIGRecConfig, BIGRecLoRAConfig
from recsys.teachers.config import E4SRecConfig, HLLMConfig
from recsys.teachers.e4srec import E4SRec
from recsys.training.config import DeepSpeedConfig, TrainingConfig
from recsys.training.engine import build_engine
from recsys.training.objective import NextItemObjective

GPU = Path(__file__).resolve().parents[3] / "ray_jobs" / "configs" / "gpu.yaml"
# From the models' own config.json, and the numbers of weights that their cards give.
QWEN3: dict[str, dict[str, Any]] = {
    "0.6B": {"hidden_size": 1024, "num_hidden_layers": 28, "intermediate_size": 3072, "num_attention_heads": 16},
    "1.7B": {"hidden_size": 2048, "num_hidden_layers": 28, "intermediate_size": 6144, "num_attention_heads": 16},
    "8B": {
        "hidden_size": 4096, "num_hidden_layers": 36, "intermediate_size": 12288, "num_attention_heads": 32,
        "tie_word_embeddings": False,
    },
}  # fmt: skip


@pytest.fixture
def qwen(tmp_path: Path) -> Callable[[str], str]:
    """The folder of a Qwen3 that has a configuration and no weights."""

    def save(name: str) -> str:
        from transformers import Qwen3Config

        sizes = {"vocab_size": 151936, "num_key_value_heads": 8, "head_dim": 128, "tie_word_embeddings": True}
        Qwen3Config(**{**sizes, **QWEN3[name]}).save_pretrained(tmp_path / name)
        return str(tmp_path / name)

    return save


@pytest.mark.parametrize(
    ("name", "whole", "body"),
    [("0.6B", 596_049_920, 440_467_456), ("1.7B", 1_720_574_976, 1_409_410_048), ("8B", 8_190_735_360, None)],
)
def test_published_sizes(
    qwen: Callable[[str], str],
    random_dataset: Callable[..., PreparedDataset],
    name: str,
    whole: int,
    body: int | None,
) -> None:
    dataset = random_dataset()
    size = size_of(BIGRecConfig(base=qwen(name)), dataset)
    assert size.weights == size.trained == whole
    assert (size.layers, size.width) == (QWEN3[name]["num_hidden_layers"], QWEN3[name]["hidden_size"])
    adapted = size_of(BIGRecConfig(base=qwen(name), lora=BIGRecLoRAConfig()), dataset)
    assert 0 < adapted.trained == adapted.weights - whole < 0.01 * whole
    if body is not None:  # which is all that E4SRec and HLLM take of it
        for config in (E4SRecConfig(kind="e4srec", llm=qwen(name)), HLLMConfig(user_model=qwen(name))):
            own = size_of(config, dataset)
            assert body < own.weights < body * 1.01
        eight = size_of(E4SRecConfig(kind="e4srec", llm=qwen(name), base_layers=7, lora=LoRAConfig()), dataset)
        assert 0.24 * body < eight.weights < 0.28 * body and eight.layers == 7


@pytest.mark.parametrize("lora", [None, LoRAConfig()], ids=["all", "adapters"])
def test_what_is_held_is_what_an_engine_holds(
    random_dataset: Callable[..., PreparedDataset], tmp_path: Path, lora: LoRAConfig | None
) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    dataset = random_dataset()
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=2,
        )
    ).save_pretrained(tmp_path)  # fmt: skip
    config = E4SRecConfig(kind="e4srec", llm=str(tmp_path), id_width=8, lora=lora)
    size = size_of(config, dataset)

    from recsys.decoders.decoder import pretrained_config

    filled = dataclasses.replace(config, llm_config=pretrained_config(config.llm, None), instruction_vectors=16)
    model = E4SRec(filled, num_items=dataset.num_items)
    if lora is not None:
        model.adapt(lora)
    training = TrainingConfig(batch_size=4)
    engine = build_engine(NextItemObjective(model, RecommendationLossConfig(), dataset), training, torch.device("cpu"))
    batches = engine.objective.batches(dataset, training, rank=0, world=1)
    engine.step(*next(iter(batches.epoch(0))), 1e-3)
    memory = memory_of(size, training, workers=1)

    def held(module: nn.Module) -> int:
        return sum(p.numel() * p.element_size() for p in module.parameters())

    assert memory.weights == held(model)
    assert memory.gradients == sum(p.grad.numel() * 4 for p in model.parameters() if p.grad is not None)
    state = engine._optimizer.state_dict()["state"].values()
    assert memory.optimizer == sum(each[name].numel() * 4 for each in state for name in ("exp_avg", "exp_avg_sq"))


def test_zero_shares_out(random_dataset: Callable[..., PreparedDataset]) -> None:
    size = Size(1000, 100, 2, 8, 16, 50, 10)

    def of(stage: int, **offload: bool) -> Memory:
        deepspeed = DeepSpeedConfig(zero_stage=stage, **offload)
        return memory_of(size, TrainingConfig(batch_size=8, precision="bf16", deepspeed=deepspeed), workers=4)

    found = [(m.weights, m.gradients, m.optimizer) for m in map(of, (0, 1, 2, 3))]
    assert found == [(2000, 200, 1200), (2000, 200, 300), (2000, 50, 300), (500, 50, 300)]
    assert of(3, offload_parameters=True).weights == of(3, offload_optimizer=True).optimizer == 0
    small = memory_of(size, TrainingConfig(batch_size=8, precision="bf16", checkpointing=True), workers=4)
    assert small.activations < of(0).activations
    assert epoch_operations(size, HLLMConfig(), random_dataset()) > 0


@pytest.mark.parametrize(
    ("name", "overrides", "workers", "fits"),
    [
        ("0.6B", [], 1, True),
        ("1.7B", [], 1, True),
        ("8B", ["teacher.model.lora=null"], 1, False),
        ("8B", ["teacher.scaling.workers=4", "teacher.training.deepspeed.zero_stage=3"], 4, True),
    ],
)
def test_the_configuration_for_gpus_fits_a_card_of_24_gb(
    qwen: Callable[[str], str],
    random_dataset: Callable[..., PreparedDataset],
    name: str,
    overrides: list[str],
    workers: int,
    fits: bool,
) -> None:
    settings = load_config(Settings, GPU, [f"teacher.model.base={qwen(name)}", *overrides])
    dataset = random_dataset()
    memory = memory_of(size_of(settings.teacher.model, dataset), settings.teacher.training, workers)
    assert settings.teacher.scaling.workers == workers
    assert fits_card(memory, "L4") == fits
    told = lines(settings, dataset)
    assert f"{memory.total / 1e9:.1f} GB on each of {workers} worker" in told[1]
    assert f" 24 {'yes' if fits else 'no':>5}" in next(line for line in told if line.split()[0] == "L4")
