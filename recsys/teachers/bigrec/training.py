"""How BIGRec learns: the loss of the next token on prompts and responses, in batches of similar length.

Legend: B prompts, L tokens of the longest, R rows.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from recsys.data.prepared import PreparedDataset
from recsys.errors import UserError
from recsys.teacher import Teacher
from recsys.teachers.bigrec.config import BIGRecConfig
from recsys.teachers.bigrec.prompts import Prompts
from recsys.training.batches import Batch
from recsys.training.config import TrainingConfig
from recsys.training.objective import Objective

_POOL = 16  # batches whose prompts are grouped by length, so that little padding is computed
_IGNORED = -100


class TitleWriter(Teacher):
    """What is asked here of a model: a causal language model, and the prompts it reads."""

    config: BIGRecConfig
    lm: Any
    prompts: Prompts


class TitleObjective(Objective):
    """Cross-entropy of the tokens to be written, as a sum over tokens."""

    def __init__(self, model: TitleWriter, *, seed: int) -> None:
        super().__init__()
        self.model: TitleWriter = model
        self._seed = seed

    def batches(self, dataset: PreparedDataset, config: TrainingConfig, *, rank: int, world: int) -> "PromptBatches":
        if config.histories != "windows":
            raise UserError(
                f"training.histories is {config.histories}, but a prompt of BIGRec always holds the whole history; "
                "leave it out"
            )
        rows = dataset.sample("train", self.model.config.train_rows, seed=self._seed)
        return PromptBatches(
            dataset,
            self.model.prompts,
            rows,
            on_inputs=self.model.config.train_on_inputs,
            batch_size=config.batch_size,
            seed=config.seed,
            rank=rank,
            world=world,
        )

    def validation_rows(self, dataset: PreparedDataset) -> np.ndarray:
        return dataset.sample("valid", self.model.config.valid_rows, seed=self._seed)

    def rows(self, batch: Batch) -> int:
        return len(batch["tokens"])

    def tokens(self, batch: Batch) -> int:
        """The prefix counts once a step."""
        return int(batch["inside"].sum()) + len(self.model.prompts.prefix)

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The prefix that all prompts share is computed once a step, its gradient is that of all of them."""
        from transformers import DynamicCache

        lm, prefix = self.model.lm, self.model.prompts.prefix
        tokens, inside, labels = batch["tokens"], batch["inside"], batch["labels"]
        begin = torch.tensor([prefix], device=tokens.device)
        positions = (len(prefix) + inside.cumsum(dim=1) - 1).clamp_min(0)
        shared = None
        wanted = int((labels != _IGNORED).any(dim=0).nonzero()[0])  # scores of what lies before it are not computed
        keep = tokens.shape[1] - wanted + 1
        if lm.is_gradient_checkpointing:  # which knows no keys and values from before
            tokens = torch.cat([begin.expand(len(tokens), -1), tokens], dim=1)
            first = torch.arange(len(prefix), device=tokens.device).expand(len(tokens), -1)
            positions = torch.cat([first, positions], dim=1)
        else:
            shared = DynamicCache()
            lm(input_ids=begin, past_key_values=shared, use_cache=True, logits_to_keep=1)
            shared.batch_repeat_interleave(len(tokens))
        logits = lm(
            input_ids=tokens,
            attention_mask=functional.pad(inside, (len(prefix), 0), value=1),
            position_ids=positions,
            past_key_values=shared,
            use_cache=shared is not None,
            logits_to_keep=keep,
        ).logits
        loss = functional.cross_entropy(
            logits[:, :-1].flatten(0, 1).float(), labels[:, wanted:].flatten(), ignore_index=_IGNORED, reduction="sum"
        )
        return loss, {"title_loss": loss.detach()}


class PromptBatches:
    """Seeded batches of prompts with their responses; every process cuts the same batches and takes its share.

    A batch has `tokens` (what follows the prefix), `inside` (what is no padding, which is on the left so that
    responses end together) and `labels` (the tokens to be written, −100 elsewhere), [B, L] int64 each.
    """

    def __init__(
        self,
        dataset: PreparedDataset,
        prompts: Prompts,
        rows: np.ndarray,
        *,
        on_inputs: bool,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self._dataset, self._prompts, self._rows, self._on_inputs = dataset, prompts, rows, on_inputs
        self._batch_size, self._seed, self._rank, self._world = max(batch_size, world), seed, rank, world

    def epoch(self, epoch: int) -> Iterator[tuple[Batch, float]]:
        generator = np.random.default_rng((self._seed, epoch, 3))
        order = generator.permutation(len(self._rows))
        pool = self._batch_size * _POOL
        for begin in range(0, len(order), pool):
            examples = [self.example(int(row)) for row in self._rows[order[begin : begin + pool]]]
            examples.sort(key=lambda example: len(example[0]))
            starts = np.arange(0, len(examples), self._batch_size)
            for start in generator.permutation(starts):
                chosen = examples[start : start + self._batch_size]
                if len(chosen) < self._world:
                    # Every process must take part in every step; the few rows left over come again next epoch.
                    continue
                total = sum(len(tokens) - first for tokens, first in chosen)
                yield self._batch(chosen[self._rank :: self._world]), total

    def example(self, row: int) -> tuple[list[int], int]:
        """The tokens of a prompt without its prefix and of its response, and where what is to be written begins."""
        prompts = self._prompts
        shown = self._dataset.latest(row)
        history = prompts.history(self._dataset.items[shown].tolist(), self._dataset.timestamps[shown].tolist())
        response = prompts.response(int(self._dataset.items[row]))
        return history + response, 1 if self._on_inputs else len(history)

    def _batch(self, examples: list[tuple[list[int], int]]) -> Batch:
        width = max(len(tokens) for tokens, _ in examples)
        tokens = torch.full((len(examples), width), self._prompts.pad)
        inside = torch.zeros_like(tokens)
        labels = torch.full_like(tokens, _IGNORED)
        for row, (ids, first) in enumerate(examples):
            tokens[row, width - len(ids) :] = torch.tensor(ids)
            inside[row, width - len(ids) :] = 1
            labels[row, width - len(ids) + first :] = tokens[row, width - len(ids) + first :]
        return {"tokens": tokens, "inside": inside, "labels": labels}
