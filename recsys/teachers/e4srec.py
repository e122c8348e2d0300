"""E4SRec-style teacher: frozen item-id embeddings of a small recommender, read by a language model.

After Li et al., "E4SRec: An Elegant Effective Efficient Extensible Solution of Large Language Models for Sequential
Recommendation" (arXiv 2312.02443), and its form in SLMRec (arXiv 2405.17890). The decoder reads

    [instruction ; projected items ; response]

and one forward pass scores the whole catalogue. It is causal, so one pass over a sequence predicts after every item of
it. Where there is a response, each item has a copy of its own behind it that sees the instruction, the items up to this
one and itself, at the positions it would have if the sequence ended there: the same numbers as row by row.

Legend: B batch, L history, P instruction vectors, R response vectors, S positions of the decoder, Q positions that are
predicted from, N items, D width of the id embeddings, H of the decoder.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from recsys.config import copy_with
from recsys.data.prepared import PreparedDataset
from recsys.decoders.config import LoRAConfig
from recsys.decoders.decoder import FROM_SCRATCH, config_of, load_decoder, new_decoder, pretrained_config
from recsys.decoders.item_encoder import Progress
from recsys.decoders.loading import load_tokenizer
from recsys.histories import Histories
from recsys.inference.ranking import WindowPass
from recsys.losses.config import RecommendationLossConfig
from recsys.signals.config import SignalsConfig
from recsys.teachers.config import E4SRecConfig
from recsys.teachers.from_student import load_student, require_student
from recsys.teachers.layered import LayeredTeacher, check_same_size
from recsys.training.objective import NextItemObjective


class E4SRec(LayeredTeacher):
    """Scores are dot products with the frozen ids (head `dot`) or of a linear layer over all items (head `linear`)."""

    kind: ClassVar[str] = "e4srec"
    Config: ClassVar[type] = E4SRecConfig
    config: E4SRecConfig
    ids: Tensor

    def __init__(self, config: E4SRecConfig, *, num_items: int) -> None:
        """Random weights and a zero id table; `build` fills the table, a checkpoint fills everything."""
        super().__init__(config, num_items=num_items)
        self.register_buffer("ids", torch.zeros(num_items + 1, config.id_width))
        self.llm = new_decoder(
            config.llm,
            config.llm_config,
            width=config.width,
            layers=config.layers,
            heads=config.heads,
            max_positions=config.max_positions,
            dropout=config.dropout,
        )
        self.instruction = self._prompt(config.instruction_vectors)
        self.response = self._prompt(config.response_vectors)
        self.enter = nn.Linear(config.id_width, self.width)
        self.score: nn.Module = (
            nn.Linear(self.width, config.id_width)
            if config.head == "dot"
            else _Vectors(num_items, self.width, std=self.width**-0.5)
        )
        self.dropout = nn.Dropout(config.dropout)

    @classmethod
    def prepare(
        cls,
        config: E4SRecConfig,
        dataset: PreparedDataset,  # noqa: ARG003
        *,
        cache: str,  # noqa: ARG003
        student: Callable[[str], str],
        progress: Progress | None = None,  # noqa: ARG003
    ) -> dict[str, str]:
        """The checkpoint whose item vectors are the id embeddings."""
        return {"ids": require_student(config.ids_from, student(config.ids_from), field="ids_from")}

    @classmethod
    def objective(
        cls, config: E4SRecConfig, dataset: PreparedDataset, inputs: Mapping[str, str], *, seed: int
    ) -> NextItemObjective:
        checkpoint = load_student(config.ids_from, inputs["ids"], dataset, field="ids_from")
        torch.manual_seed(seed)
        with torch.inference_mode():
            ids = checkpoint.model.item_vectors().clone()
        objective = NextItemObjective(cls.build(config, ids), RecommendationLossConfig(kind="softmax"), dataset)
        objective.one_a_user = config.rows == "one-a-user"
        return objective

    @classmethod
    def build(cls, config: E4SRecConfig, ids: Tensor) -> "E4SRec":
        """A new teacher on an id table [N+1, D], row 0 padding.

        Raises:
            UserError: the language model is not there, or its tokens' embeddings do not fit.
        """
        config = dataclasses.replace(config, id_width=ids.shape[1])
        if config.llm == FROM_SCRATCH:
            model = cls(config, num_items=len(ids) - 1)
        else:
            tokenizer = load_tokenizer(config.llm)
            texts = {
                "instruction": tokenizer(config.instruction)["input_ids"] if config.instruction else [],
                "response": tokenizer(config.response, add_special_tokens=False)["input_ids"],
            }
            config = dataclasses.replace(
                config,
                llm_config=pretrained_config(config.llm, config.base_layers),
                instruction_vectors=len(texts["instruction"]),
                response_vectors=len(texts["response"]),
            )
            model = cls(config, num_items=len(ids) - 1)
            words = load_decoder(model.llm, config.llm, config.base_layers)
            with torch.no_grad():
                for prompt, tokens in ((model.instruction, texts["instruction"]), (model.response, texts["response"])):
                    if prompt is not None:
                        prompt.weight.copy_(words(torch.tensor(tokens)))
        model._take(ids)
        if config.lora is not None:
            model.adapt(config.lora, config.llm)
        return model

    def adapt(self, lora: LoRAConfig, base: str | None = None) -> None:
        """Freeze the language model and the prompt, and train adapters in their place."""
        super().adapt(lora, base)
        for prompt in (self.instruction, self.response):
            if prompt is not None:
                prompt.requires_grad_(False)

    def _prompt(self, count: int) -> "_Vectors | None":
        return _Vectors(count, self.width) if count else None

    def _take(self, ids: Tensor) -> None:
        """Fill the table; the fresh projection gives its average entry variance 1, whatever its scale."""
        with torch.no_grad():
            self.ids.copy_(ids)
            self.ids[0] = 0
            spread = self.ids[1:].square().mean().sqrt().clamp_min(1e-6)
            nn.init.normal_(self.enter.weight, std=float(self.config.id_width**-0.5 / spread))
            nn.init.zeros_(self.enter.bias)

    def describe(self) -> dict[str, Any]:
        config = self.config
        return {"language_model": config.llm, "ids_from": config.ids_from, "head": config.head}

    def ready(self, config: SignalsConfig, device: str | torch.device) -> WindowPass:
        return WindowPass(self, config, device)

    @property
    def decoder(self) -> Any:
        return self.llm

    @property
    def lora(self) -> LoRAConfig | None:
        return self.config.lora

    def run(self, histories: Histories, vectors: Tensor) -> Tensor:  # noqa: ARG002
        every = torch.arange(histories.items.shape[1], device=histories.items.device)[None, :]
        return self._run(histories.items, every)

    def _run(self, items: Tensor, after: Tensor) -> Tensor:
        """[B, S, H]; the response is read behind the items at positions `after` ([B or 1, Q]): S = P + L + Q · R."""
        batch = len(items)
        # Engines that train in bf16 convert parameters, not buffers.
        entered = self.dropout(self.enter(functional.embedding(items, self.ids).to(self.enter.weight.dtype)))
        parts = [entered]
        if self.instruction is not None:
            parts.insert(0, self.instruction().to(entered.dtype).expand(batch, -1, -1))
        if self.response is None:
            # Padding lies on the right: no position before it can see it, so no mask is needed.
            return self.llm(inputs_embeds=torch.cat(parts, dim=1), use_cache=False).last_hidden_state
        parts.append(self.response().to(entered.dtype).expand(batch, -1, -1).repeat(1, after.shape[1], 1))
        mask, positions = self._places(items.shape[1], after)
        if self.llm.config._attn_implementation != "sdpa":  # it adds the mask instead of asking it
            mask = torch.zeros_like(mask, dtype=entered.dtype).masked_fill(~mask, torch.finfo(entered.dtype).min)
        return self.llm(
            inputs_embeds=torch.cat(parts, dim=1),
            attention_mask=mask.expand(batch, -1, -1, -1),
            position_ids=positions,
            use_cache=False,
        ).last_hidden_state

    def _places(self, length: int, after: Tensor) -> tuple[Tensor, Tensor]:
        """Who sees whom ([B or 1, 1, S, S] bool) and at which position each stands ([B or 1, S])."""
        rows, count = after.shape
        before, size = self.config.instruction_vectors, self.config.response_vectors
        start = torch.arange(before + length, device=after.device)
        owner = after.repeat_interleave(size, dim=1)  # [rows, Q·R] the item each response vector follows
        step = torch.arange(size, device=after.device).repeat(count)
        positions = torch.cat([start.expand(rows, -1), before + owner + 1 + step], dim=1)
        # Instruction and items see no response, everything else nothing later than itself.
        total = before + length + count * size
        seen = torch.zeros(rows, total, total, dtype=torch.bool, device=after.device)
        seen[:, : len(start), : len(start)] = start[:, None] >= start[None, :]
        seen[:, len(start) :, : len(start)] = start[None, None, :] <= before + owner[:, :, None]
        block = torch.arange(count, device=after.device).repeat_interleave(size)
        seen[:, len(start) :, len(start) :] = (block[:, None] == block[None, :]) & (step[:, None] >= step[None, :])
        return seen[:, None], positions

    def at_items(self, states: Tensor, length: int) -> Tensor:
        before, size = self.config.instruction_vectors, self.config.response_vectors
        if not size:
            return states[:, before:]
        return states[:, before + length + size - 1 :: size]

    def query(self, histories: Histories, vectors: Tensor | None = None) -> Tensor:
        if self.response is None:
            return super().query(histories, vectors)
        states = self._run(histories.items, histories.lengths[:, None] - 1)
        return self.read_out(states[:, -1], self.item_vectors() if vectors is None else vectors)

    def read_out(self, states: Tensor, vectors: Tensor) -> Tensor:
        states = self.dropout(states)
        return (self.score(states) if self.config.head == "dot" else states).to(vectors.dtype)

    def item_vectors(self) -> Tensor:
        """The frozen ids [N+1, D], or with the linear head its weights [N+1, H]; row 0 zero."""
        return self.ids if self.config.head == "dot" else functional.pad(self.score(), (0, 0, 1, 0))

    def fresh(self, layers: int | Sequence[int], *, width: int | None = None, heads: int | None = None) -> "E4SRec":
        config = self.config
        if config.llm != FROM_SCRATCH:
            check_same_size(width, heads)
            whole = dataclasses.replace(config, lora=None, base_layers=None)
            return E4SRec.build(whole, self.ids).cut(self.base_layers(layers))
        number = layers if isinstance(layers, int) else len(layers)
        size = {"layers": number, "width": width or config.width, "heads": heads or config.heads}
        return E4SRec.build(copy_with(config, **size), self.ids)

    def _cut_config(self, base: Sequence[int]) -> E4SRecConfig:
        if self.config.llm == FROM_SCRATCH:
            return dataclasses.replace(self.config, layers=self.depth)
        return dataclasses.replace(self.config, llm_config=config_of(self.llm), base_layers=tuple(base))


class _Vectors(nn.Module):
    """Learnable vectors [count, width], had by a call: engines that part weights gather them for one."""

    def __init__(self, count: int, width: int, std: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(std * torch.randn(count, width))

    def forward(self) -> Tensor:
        return self.weight
