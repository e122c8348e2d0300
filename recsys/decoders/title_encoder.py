"""The item language model as a part of the teacher: titles to vectors with gradients, while it is trained.

Legend: N items, U some of them, T tokens of all titles, W width of the item language model.
"""

import dataclasses
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from recsys.decoders.config import ItemEncoderConfig, LoRAConfig
from recsys.decoders.item_encoder import TextEmbeddings, batches_by_length, load_item_model, read_titles, tokenise
from recsys.decoders.lora import add_adapters
from recsys.processes import world

_PARTS = 8  # of a step's titles, by length, so that little padding is read; as many in every process (ZeRO-3)


class TitleEncoder(nn.Module):
    """Reads titles as `recsys.decoders.item_encoder` does, and standardises them by the mean and spread that they had
    before training: with the weights it begins with, its vectors are those of the frozen model.

    Args:
        titles: N+1 strings, "" at 0 and where a title is missing.
        text: what the model says of them before training.
        lora: adapters to be trained in the place of all weights.

    Raises:
        UserError: the model is not there or has no such layers.
    """

    mean: Tensor
    spread: Tensor
    known: Tensor
    tokens: Tensor
    start: Tensor
    length: Tensor

    def __init__(
        self, titles: Sequence[str], config: ItemEncoderConfig, text: TextEmbeddings, lora: LoRAConfig | None
    ) -> None:
        super().__init__()
        tokenizer, self.model, self._last_token = load_item_model(dataclasses.replace(config, dtype="fp32"))
        self.model.config.use_cache = False
        if getattr(self.model, "pooler", None) is not None:
            self.model.pooler = None  # it is not read, so it would wait for a gradient in vain
        if lora is not None:
            add_adapters(self.model, lora)
        self._batch_tokens, self._pad = config.batch_tokens, int(tokenizer.pad_token_id)
        mean, spread = text.scale()
        tokens = tokenise(titles, tokenizer, config)
        # A missing title is read as one token and its vector put to zero: all processes compute the same graph.
        tokens = [ids if known else [self._pad] for ids, known in zip(tokens, text.known.tolist(), strict=True)]
        length = torch.tensor([len(ids) for ids in tokens])
        for name, tensor in {
            "mean": mean.float(),
            "spread": spread.float(),
            "known": text.known,
            "tokens": torch.tensor([token for ids in tokens for token in ids]),  # [T]
            "start": length.cumsum(0) - length,
            "length": length,
        }.items():
            self.register_buffer(name, tensor, persistent=False)
        self._count: Tensor | int = 0

    def tokens_read(self) -> int:
        """Tokens of titles that `forward` read since the last call."""
        count, self._count = int(self._count), 0
        return count

    def forward(self, items: Tensor) -> Tensor:
        """[U, W] standardised float32 of items [U] int64; zero where a title is missing."""
        self._count = self._count + self.length[items].sum()
        order = self.length[items].argsort()
        read = torch.cat([self._read(items[part]) for part in order.tensor_split(min(_PARTS, len(items)))])
        return read[order.argsort()]

    @torch.no_grad()
    def table(self) -> Tensor:
        """[N+1, W] of the whole catalogue without dropout; with several processes each reads its share, and all must
        call this."""
        training = self.training
        self.eval()
        rank, processes = world()
        batches = [torch.tensor(batch) for batch in batches_by_length(self.length.tolist(), self._batch_tokens)]
        table = torch.zeros(len(self.known), len(self.mean), device=self.mean.device)
        for begin in range(0, len(batches), processes):
            batch = batches[min(begin + rank, len(batches) - 1)].to(table.device)
            read = self._read(batch)  # also where it is not this process's turn: under ZeRO-3 all step together
            if begin + rank < len(batches):
                table[batch] = read
        if processes > 1:
            dist.all_reduce(table)
        self.train(training)
        return table

    def _read(self, items: Tensor) -> Tensor:
        length = self.length[items]
        columns = torch.arange(int(length.max()), device=items.device)
        inside = columns < length[:, None]
        tokens = torch.where(inside, self.tokens[torch.where(inside, self.start[items, None] + columns, 0)], self._pad)
        vectors = read_titles(self.model, tokens, inside.long(), last_token=self._last_token)
        return torch.where(self.known[items, None], (vectors - self.mean) / self.spread, 0.0)
