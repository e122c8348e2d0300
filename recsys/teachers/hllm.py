"""HLLM-style teacher: an item language model reads titles, a user language model reads sequences of items.

After Chen et al., "HLLM: Enhancing Sequential Recommendations via Hierarchical Large Language Models for Item and User
Modeling" (arXiv 2409.12740). What the item language model says of the titles is a buffer; a projection, an MLP and an
optional id offset fit it to the task, which is what makes the teacher trainable on small machines. The loss that
belongs to it is InfoNCE at every position: over the whole catalogue where the item language model is frozen, and over
items drawn for the step where it is trained too (`recsys.teachers.hllm_training`). Saved, both are the same model.

Legend: B batch, L history, N items, U some of them, W width of the item language model, D width of the item vectors, H
of the decoder.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from recsys import storage
from recsys.config import copy_with
from recsys.data.prepared import PreparedDataset
from recsys.decoders.config import LoRAConfig
from recsys.decoders.decoder import FROM_SCRATCH, config_of, load_decoder, new_decoder, pretrained_config
from recsys.decoders.item_encoder import Progress, TextEmbeddings, embed_titles
from recsys.decoders.time_gaps import TimeGaps
from recsys.decoders.title_encoder import TitleEncoder
from recsys.errors import UserError
from recsys.histories import Histories
from recsys.inference.ranking import WindowPass
from recsys.signals.config import SignalsConfig
from recsys.teachers.config import HLLMConfig
from recsys.teachers.hllm_training import TitleReader, hllm_objective
from recsys.teachers.layered import check_same_size
from recsys.training.objective import Objective

_INITIAL_SCALE = math.log(1 / 0.07)
_LARGEST_SCALE = math.log(100)
_ITEMS = 65536  # whose vectors are computed at a time


class HLLM(TitleReader):
    """Scores are cosines times exp(logit scale), a learnable temperature (initially 1/0.07, at most 100)."""

    kind: ClassVar[str] = "hllm"
    Config: ClassVar[type] = HLLMConfig
    text: Tensor

    def __init__(self, config: HLLMConfig, *, num_items: int) -> None:
        """Random weights and a zero text table; `build` fills the table, a checkpoint fills everything."""
        super().__init__(config, num_items=num_items)
        self.register_buffer("text", torch.zeros(num_items + 1, config.item_width))
        self.project = nn.Linear(config.item_width, config.width)
        nn.init.normal_(self.project.weight, std=config.width**-0.5)  # text of length 1 keeps its length
        nn.init.zeros_(self.project.bias)
        self.mlp = _ResidualMLP(config.width, config.hidden, config.dropout) if config.hidden else nn.Identity()
        self.offset = _Offsets(num_items + 1, config.width) if config.id_offset else None
        if self.offset is not None:
            nn.init.normal_(self.offset.weight, std=0.01)  # small: what is rarely seen stays where its title puts it
        self.user = new_decoder(
            config.user_model,
            config.user_config,
            width=config.width,
            layers=config.layers,
            heads=config.heads,
            max_positions=config.max_positions,
            dropout=config.dropout,
        )
        decoder_width = self.user.config.hidden_size
        self.enter = nn.Linear(config.width, decoder_width)
        self.leave = nn.Linear(decoder_width, config.width)
        self.uses_times = config.time_gaps
        self.gaps = TimeGaps(decoder_width) if config.time_gaps else None
        self.dropout = nn.Dropout(config.dropout)
        self.logit_scale = nn.Parameter(torch.tensor([_INITIAL_SCALE]))  # DeepSpeed broadcasts no scalars
        self.titles: TitleEncoder | None = None  # while it is trained
        self._stale = False  # the text table is of other weights of the item language model

    @classmethod
    def prepare(
        cls,
        config: HLLMConfig,
        dataset: PreparedDataset,
        *,
        cache: str,
        student: Callable[[str], str],  # noqa: ARG003
        progress: Progress | None = None,
    ) -> dict[str, str]:
        """The item language model's vectors of the titles; kept for every later run with the same titles and model."""
        folder = storage.join(cache, "text-embeddings")
        titles = dataset.catalogue.titles
        return {
            "text": embed_titles(titles, config.item, titles_hash=dataset.titles_hash, cache=folder, progress=progress)
        }

    @classmethod
    def objective(
        cls, config: HLLMConfig, dataset: PreparedDataset, inputs: Mapping[str, str], *, seed: int
    ) -> Objective:
        torch.manual_seed(seed)
        return hllm_objective(cls.build(config, dataset, TextEmbeddings.load(inputs["text"])), dataset)

    def describe(self) -> dict[str, Any]:
        config = self.config
        return {
            "language_model": config.user_model,
            "item_language_model": config.item.model,
            "item_training": config.item_training,
            "time_gaps": config.time_gaps,
        }

    def ready(self, config: SignalsConfig, device: str | torch.device) -> WindowPass:
        return WindowPass(self, config, device)

    @classmethod
    def build(cls, config: HLLMConfig, dataset: PreparedDataset, text: TextEmbeddings) -> "HLLM":
        """A new teacher for a catalogue.

        Raises:
            UserError: the text table is of another catalogue, or the user model is not there.
        """
        if len(text.vectors) != dataset.num_items + 1:
            raise UserError(f"{len(text.vectors)} text embeddings for {dataset.num_items} items and padding")
        config = dataclasses.replace(config, item_width=text.width)
        if config.user_model == FROM_SCRATCH:
            model = cls(config, num_items=dataset.num_items)
        else:
            user_config = pretrained_config(config.user_model, config.base_layers)
            model = cls(dataclasses.replace(config, user_config=user_config), num_items=dataset.num_items)
            load_decoder(model.user, config.user_model, config.base_layers)
            if config.user_lora is not None:
                model.adapt(config.user_lora, config.user_model)
        model.text.copy_(text.standardise())
        if config.item_training != "frozen":
            lora = config.item_lora if config.item_training == "lora" else None
            model.titles = TitleEncoder(dataset.catalogue.titles, config.item, text, lora)
        return model

    @property
    def decoder(self) -> Any:
        return self.user

    @property
    def lora(self) -> LoRAConfig | None:
        return self.config.user_lora

    def run(self, histories: Histories, vectors: Tensor) -> Tensor:
        read = functional.embedding(histories.items, vectors)
        read = read.to(self.enter.weight.dtype)  # an engine's table is in fp32
        inputs = self.enter(read * self.config.width**0.5)  # entries of variance 1
        if self.gaps is not None and histories.times is not None:
            inputs = inputs + self.gaps(histories.times).to(inputs.dtype)
        # Padding lies on the right and attention is causal: no position before it can see it, so no mask is needed.
        return self.user(inputs_embeds=self.dropout(inputs), use_cache=False).last_hidden_state

    def at_items(self, states: Tensor, length: int) -> Tensor:  # noqa: ARG002
        return states

    def read_out(self, states: Tensor, vectors: Tensor) -> Tensor:
        """[…, D]: the expected next item's unit vector times the logit scale."""
        expected = functional.normalize(self.leave(self.dropout(states)).float(), dim=-1)
        return (expected * self.logit_scale.float().clamp(0.0, _LARGEST_SCALE).exp()).to(vectors.dtype)

    def fresh(self, layers: int | Sequence[int], *, width: int | None = None, heads: int | None = None) -> "HLLM":
        config = self.config
        if config.user_model == FROM_SCRATCH:
            numbers = layers if isinstance(layers, int) else len(layers)
            size = {"layers": numbers, "width": width or config.width, "heads": heads or config.heads}
            model = HLLM(copy_with(config, **size), num_items=self.num_items)
        else:
            check_same_size(width, heads)
            user_config = pretrained_config(config.user_model, None)
            whole = dataclasses.replace(config, user_config=user_config, base_layers=None)
            model = HLLM(whole, num_items=self.num_items)
            load_decoder(model.user, config.user_model)
            model = model.cut(self.base_layers(layers))
        model.text.copy_(self.text)
        return model

    def _cut_config(self, base: Sequence[int]) -> HLLMConfig:
        if self.config.user_model == FROM_SCRATCH:
            return dataclasses.replace(self.config, layers=self.depth)
        return dataclasses.replace(self.config, user_config=config_of(self.user), base_layers=tuple(base))

    def item_vectors(self) -> Tensor:
        """[N+1, D] unit vectors, row 0 zero.

        Where nothing is learned, what lies between texts and vectors is there for 65,536 items at a time.
        """
        self._read_catalogue()
        every = slice(1, None)
        if self.training or torch.is_grad_enabled():
            return _pad(self._fit(self.text[every], every))
        parts = [slice(begin, begin + _ITEMS) for begin in range(1, len(self.text), _ITEMS)]
        first = self._fit(self.text[parts[0]], parts[0])
        vectors = first.new_zeros(len(self.text), first.shape[1])
        vectors[parts[0]] = first
        for part in parts[1:]:
            vectors[part] = self._fit(self.text[part], part)
        return vectors

    def vectors_of(self, items: Tensor) -> Tensor:
        if self.titles is None:
            return _pad(self._fit(self.text[items[1:]], items[1:]))
        self._stale |= self.training
        return _pad(self._fit(self.titles(items[1:]), items[1:]))

    def _fit(self, text: Tensor, items: Tensor | slice) -> Tensor:
        """[U, D] of items [U] and their texts [U, W]."""
        # Engines that train in bf16 convert parameters, not buffers.
        fitted = self.mlp(self.project(text.to(self.project.weight.dtype)))
        if self.offset is not None:
            fitted = fitted + self.offset()[items]
        return functional.normalize(fitted, dim=-1)

    def _read_catalogue(self) -> None:
        if self.titles is not None and self._stale:
            self.text.copy_(self.titles.table())
            self._stale = False

    def before_export(self) -> None:
        self._read_catalogue()

    def export_state(self) -> dict[str, Tensor]:
        """Without the item language model: what it says of the titles is in the table."""
        self._read_catalogue()
        return {name: tensor for name, tensor in super().export_state().items() if not name.startswith("titles.")}

    def text_embeddings(self) -> Tensor:
        return self.text

    @property
    def computed_buffers(self) -> frozenset[str]:
        return frozenset({"text"} if self.titles is not None else ())


def _pad(vectors: Tensor) -> Tensor:
    """A row of zeros before the others."""
    return functional.pad(vectors, (0, 0, 1, 0))


class _Offsets(nn.Embedding):
    """Had by a call: engines that part weights gather them for one."""

    def forward(self) -> Tensor:  # type: ignore[override]
        return self.weight


class _ResidualMLP(nn.Module):
    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, width)
        )
        last = self.layers[-1]
        assert isinstance(last, nn.Linear)
        nn.init.normal_(last.weight, std=(hidden * width) ** -0.5)
        nn.init.zeros_(last.bias)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)
