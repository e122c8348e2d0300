"""Tiny BIGRec teachers with random weights, made from scratch."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from recsys.data.prepared import PreparedDataset
from recsys.teachers.bigrec.bigrec import BIGRec
from recsys.teachers.bigrec.config import BIGRecConfig
from recsys.teachers.bigrec.training import TitleObjective

SMALL = {"width": 16, "layers": 2, "heads": 2, "vocabulary": 300, "max_tokens": 400}


@pytest.fixture
def dataset(random_dataset: Callable[..., PreparedDataset]) -> PreparedDataset:
    return random_dataset()


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("tokenizers"))


@pytest.fixture
def objective(cache: str) -> Callable[..., TitleObjective]:
    def build(dataset: PreparedDataset, **options: object) -> TitleObjective:
        config = BIGRecConfig(**{**SMALL, **options})
        inputs = BIGRec.prepare(config, dataset, cache=cache, student=str)
        made = BIGRec.objective(config, dataset, inputs, seed=0)
        assert isinstance(made, TitleObjective)
        return made

    return build


@pytest.fixture
def teacher(objective: Callable[..., TitleObjective]) -> Callable[..., BIGRec]:
    """Build a teacher whose weights are random but large, so that texts and their scores differ."""

    def build(dataset: PreparedDataset, **options: object) -> BIGRec:
        model = objective(dataset, **options).model.eval()
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for name, parameter in model.lm.named_parameters():
                if parameter.dim() == 2:
                    scale = 0.25 if "embed" in name else 0.7
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
        model.embed_titles()
        return model

    return build


@contextmanager
def poisoned(model: BIGRec, token: int) -> Iterator[None]:
    """Let the language model be told nonsense where it reads a token."""

    def poison(module: object, given: tuple[torch.Tensor], read: torch.Tensor) -> torch.Tensor:
        return read.masked_fill((given[0] == token)[..., None], torch.nan)

    with model.lm.get_input_embeddings().register_forward_hook(poison):
        yield


def save_base(folder: Path, family: str, tokenizer: object, vocabulary: int, **options: object) -> str:
    """A tiny causal language model of a family with random weights, saved as a user's base model would be."""
    import transformers

    size = {
        "vocab_size": vocabulary, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": 512,
        "bos_token_id": None, "eos_token_id": 1, "pad_token_id": 0,
        **options,
    }  # fmt: skip
    config = getattr(transformers, f"{family}{'Text' if family == 'Gemma3' else ''}Config")(**size)
    torch.manual_seed(2)
    getattr(transformers, f"{family}ForCausalLM")(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)  # type: ignore[attr-defined]
    return str(folder)
