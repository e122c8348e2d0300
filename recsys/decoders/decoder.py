"""Causal decoders that read vectors instead of words: made from a configuration, loaded, cut in depth, looked into.

Whatever transformers gives as a body with `layers` and `norm` will do: Llama, Qwen, Mistral, Gemma and their kin. The
table of word embeddings is left out, for `inputs_embeds` never reads it.
"""

import copy
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from recsys.decoders.loading import load_transformers_config, load_transformers_model
from recsys.errors import UserError

FROM_SCRATCH = "from-scratch"
_WITH_DROPOUT = re.compile(r"\b(o_proj|down_proj)\.0\.")


def new_decoder(
    source: str,
    values: dict[str, Any] | None,
    *,
    width: int,
    layers: int,
    heads: int,
    max_positions: int,
    dropout: float,
) -> Any:
    """A decoder with random weights.

    Args:
        source: `from-scratch`, a Llama of the size that follows, or a transformers id or path, which brings its own.
        values: transformers configuration of such a model, where it is known already.
        dropout: from scratch, after each sublayer.

    Raises:
        UserError: the model is not there, or its body is not a plain stack of layers.
    """
    from transformers import AutoConfig, AutoModel, LlamaConfig

    if source == FROM_SCRATCH:
        decoder: Any = AutoModel.from_config(
            LlamaConfig(
                vocab_size=1,
                hidden_size=width,
                intermediate_size=8 * math.ceil(width / 3),  # Llama's ratio of 8/3
                num_hidden_layers=layers,
                num_attention_heads=heads,
                max_position_embeddings=max_positions,
                attention_dropout=0.0,  # on CPU it would rule out the fused attention kernel
                pad_token_id=None,
                bos_token_id=None,
                eos_token_id=None,
            ),
            attn_implementation="sdpa",
        )
        # Llama has no dropout after its sublayers; a small decoder trained from scratch overfits without.
        for layer in decoder.layers:
            layer.self_attn.o_proj = nn.Sequential(layer.self_attn.o_proj, nn.Dropout(dropout))
            layer.mlp.down_proj = nn.Sequential(layer.mlp.down_proj, nn.Dropout(dropout))
    else:
        values = values or load_transformers_config(source).to_dict()
        decoder = AutoModel.from_config(AutoConfig.for_model(**values), dtype=torch.float32)
    if not (isinstance(getattr(decoder, "layers", None), nn.ModuleList) and isinstance(decoder.norm, nn.Module)):
        raise UserError(f"model {source!r} is not a plain stack of layers as Llama is; choose another model")
    decoder.set_input_embeddings(None)
    return decoder


def pretrained_config(source: str, layers: int | Sequence[int] | None) -> dict[str, Any]:
    """The transformers configuration of a model with these layers alone (see `choose_layers`; None for all).

    Raises:
        UserError: the model is not there, or has no such layers.
    """
    config = load_transformers_config(source)
    if layers is not None:
        _keep_layers(config, choose_layers(config.num_hidden_layers, layers))
    return config.to_dict()


def load_decoder(decoder: Any, source: str, layers: int | Sequence[int] | None = None) -> nn.Module:
    """Fill a decoder with pretrained weights, of these layers (None for all); returns the embeddings of its words.

    Raises:
        UserError: the model is not there or has no safetensors weights.
    """
    pretrained = load_transformers_model(source)
    words = pretrained.get_input_embeddings()
    pretrained.set_input_embeddings(None)
    depth = len(pretrained.layers)
    with keep_only_layers(pretrained, choose_layers(depth, depth if layers is None else layers)):
        decoder.load_state_dict(pretrained.state_dict())
    return words


def choose_layers(depth: int, layers: int | Sequence[int]) -> list[int]:
    """Numbers of the layers to keep, ascending.

    Raises:
        UserError: there are no such layers.
    """
    numbers = list(range(1, layers + 1)) if isinstance(layers, int) else list(layers)
    if not numbers or numbers != sorted(set(numbers)) or numbers[0] < 1 or numbers[-1] > depth:
        wanted = f"{layers} layers" if isinstance(layers, int) else f"layers {numbers}"
        raise UserError(f"{wanted} cannot be kept of a model of {depth}; name some of 1 to {depth}, in ascending order")
    return numbers


@contextmanager
def keep_only_layers(decoder: Any, layers: Sequence[int]) -> Iterator[None]:
    """While it lasts the decoder has these layers (numbered from 1) alone, so that a copy of it copies no others."""
    whole, config = decoder.layers, decoder.config
    number, types = config.num_hidden_layers, getattr(config, "layer_types", None)
    decoder.layers = nn.ModuleList(whole[n - 1] for n in layers)
    _keep_layers(config, layers)
    try:
        yield
    finally:
        decoder.layers, config.num_hidden_layers = whole, number
        if types:
            config.layer_types = types


def _keep_layers(config: Any, layers: Sequence[int]) -> None:
    config.num_hidden_layers = len(layers)
    if types := getattr(config, "layer_types", None):
        config.layer_types = [types[n - 1] for n in layers]


def config_of(decoder: Any) -> dict[str, Any]:
    """The decoder's transformers configuration as plain values."""
    return copy.deepcopy(decoder.config.to_dict())


def save_decoder(decoder: Any, state: dict[str, Tensor], path: Path) -> None:
    """Write a decoder as transformers does, so that `AutoModel.from_pretrained` loads it; a folder of that name is
    written into.

    Args:
        state: its weights, adapters merged. Those of layers from scratch, which have dropout behind them, get the names
            that they have without.
    """
    plain = {_WITH_DROPOUT.sub(r"\1.", name): tensor for name, tensor in state.items()}
    config = decoder.config
    decoder.config = copy.deepcopy(config)  # it is changed by saving
    try:
        decoder.save_pretrained(path, state_dict=plain)
    finally:
        decoder.config = config


@contextmanager
def outputs_of(decoder: Any, layers: Sequence[int]) -> Iterator[dict[int, Tensor]]:
    """During a forward pass, collect what these layers (numbered from 1) put out, each [B, S, H]."""
    found: dict[int, Tensor] = {}

    def keep(number: int) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:  # noqa: ARG001
            found[number] = output[0] if isinstance(output, tuple) else output

        return hook

    handles = [decoder.layers[number - 1].register_forward_hook(keep(number)) for number in layers]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
