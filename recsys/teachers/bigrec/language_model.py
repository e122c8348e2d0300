"""The causal language model and tokenizer of BIGRec: a pretrained one, or one made from scratch."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from recsys import storage
from recsys.config import digest
from recsys.data.prepared import PreparedDataset
from recsys.decoders.loading import load_causal_model, load_transformers_config
from recsys.decoders.lora import add_adapters
from recsys.errors import UserError
from recsys.teachers.bigrec.config import FROM_SCRATCH, BIGRecConfig
from recsys.teachers.bigrec.prompts import texts_of


def base_config(config: BIGRecConfig, tokenizer: Any) -> dict[str, Any]:
    """The transformers configuration of the language model.

    Raises:
        UserError: it is not there, or looks back less far than prompts may be long (`TitleGenerator` attends to all).
    """
    if config.base != FROM_SCRATCH:
        values = load_transformers_config(config.base).to_dict()
        window = values.get("sliding_window") if values.get("use_sliding_window", True) else None
        if window is not None and window < config.max_tokens:
            raise UserError(
                f"model {config.base!r} attends to the latest {window} tokens only; set teacher.model.max_tokens to "
                f"{window} or less (it is {config.max_tokens})"
            )
        return values
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=config.width,
        intermediate_size=8 * math.ceil(config.width / 3),  # Llama's ratio of 8/3
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        max_position_embeddings=max(2048, config.max_tokens),
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    ).to_dict()


def new_language_model(config: BIGRecConfig) -> Any:
    """The language model with random weights and, where there are to be any, adapters."""
    from transformers import AutoConfig, AutoModelForCausalLM

    assert config.base_config is not None, "filled in by BIGRec.objective and by every checkpoint"
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config.base_config), dtype=torch.float32)
    if config.lora is not None:
        add_adapters(model, config.lora)
    return model


def load_weights(model: Any, config: BIGRecConfig) -> None:
    """Put the pretrained weights in the place of the random ones.

    Raises:
        UserError: they are not there, or the model needs code of its own.
    """
    state = load_causal_model(config.base).state_dict()
    own = {name.replace(".base_layer.", "."): tensor for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        for name, tensor in state.items():
            own[name].copy_(tensor)


def train_tokenizer(config: BIGRecConfig, dataset: PreparedDataset, cache: str) -> str:
    """Where a tokenizer of the catalogue's own lies: byte-level byte pairs over titles and prompt.

    It is made unless it is in `cache`, under a key of the titles, the prompt and its size.
    """
    texts = texts_of(dataset.catalogue, config)
    key = digest({"texts": texts, "vocabulary": config.vocabulary, "version": 1})
    uri = storage.join(cache, key[:32])
    if not storage.is_current(uri, key):
        with storage.new_artifact(uri, key=key, attributes={"vocabulary": config.vocabulary}) as directory:
            _byte_pairs(texts, config.vocabulary).save_pretrained(directory)
    return uri


def _byte_pairs(texts: list[str], vocabulary: int) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|pad|>", "<|end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=special[0], eos_token=special[1])


@contextmanager
def without_adapters(model: nn.Module) -> Iterator[None]:
    """The base model as it was before fine-tuning."""
    layers: list[Any] = [module for module in model.modules() if hasattr(module, "enable_adapters")]
    layers = [layer for layer in layers if hasattr(layer, "base_layer")]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)
