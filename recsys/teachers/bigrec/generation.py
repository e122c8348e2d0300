"""Greedy and beam generation of titles, made for many prompts that begin alike and end soon.

It gives what transformers' `generate` gives (same beams, same scores, same stop), with less work:

- the common beginning of all prompts is computed once, its keys and values are copied into every batch;
- prompts are batched by length and read in parts that fit the processor's cache; one that is done leaves its batch;
- a prompt is computed once, not once a beam: the beams of a prompt are positions of one sequence, which see the prompt
  and their own ancestors alone (a tree of tokens in one cache), so that no cache is reordered or copied either.

A quotation mark closes a title. What is written after it is computed, since it ranks the beams, but is no part of it.

Legend: B prompts in a batch, k beams, P longest prompt, T tokens generated, S slots of the cache, V vocabulary.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import Cache, DynamicCache, DynamicLayer

from recsys.teachers.bigrec.trie import TitleTrie

_NEVER = -1e9  # what transformers adds to the score of what must not be chosen
_TOKENS = {"cpu": 1024}  # of prompts read at a time: few, so that what is computed stays in the processor's cache
_MANY_TOKENS = 16384
_SHRINK = 0.75  # a batch is made smaller when fewer of its prompts than this are still being written


class TitleGenerator:
    """A language model that writes titles.

    Memory: a batch's keys and values, of batch_size · (P + k · T) slots, and its scores, batch_size · k · V.

    Attributes:
        tokens: read and written so far; beams that were given up do not count, nor does what prompts share.

    Args:
        forward: the language model or an engine around it: `forward(input_ids=…, attention_mask=…, …).logits`.
        prefix: tokens that all prompts begin with, at least one.
        closing: tokens that end a title; end: the token that ends a text.
        beams: 1 is greedy.
        new_tokens: T at most.
        trie: titles with their closing token; none writes freely.
        dtype, device: of the language model.
    """

    def __init__(
        self,
        forward: Callable[..., Any],
        *,
        prefix: Sequence[int],
        closing: Sequence[int],
        end: int,
        beams: int,
        new_tokens: int,
        trie: TitleTrie | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        batch_size: int = 64,
    ) -> None:
        self._forward = forward
        self._prefix = list(prefix)
        self._end, self._beams, self._new_tokens, self._trie = end, beams, new_tokens, trie
        self._dtype, self._device, self._batch_size = dtype, torch.device(device), batch_size
        self._closing = torch.tensor(sorted(closing), dtype=torch.int64, device=self._device)
        self._shared = self._prefix_layers()
        self.tokens = 0

    def generate(self, prompts: Sequence[Sequence[int]]) -> list[list[int] | None]:
        """The best continuation of each prompt, up to and with its closing or ending token; None where the language
        model's answer is not finite.

        Args:
            prompts: what follows the prefix, at least one token each.
        """
        results: list[list[int] | None] = [None for _ in prompts]
        order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
        for begin in range(0, len(order), self._batch_size):
            chosen = order[begin : begin + self._batch_size]
            for i, tokens in zip(chosen, self._generate([prompts[i] for i in chosen]), strict=True):
                results[i] = tokens
        self.tokens += sum(map(len, prompts)) + sum(len(result or ()) for result in results)
        return results

    @torch.inference_mode()
    def _generate(self, prompts: list[Sequence[int]]) -> list[list[int] | None]:
        search = _Search(len(prompts), self._beams, self._new_tokens, self._closing, self._end, self._device)
        cache, visible, last, position = self._prefill(prompts)
        nodes: np.ndarray = np.zeros((len(prompts), 1), dtype=np.int64)
        while True:
            beams = last.shape[1]
            slots = cache.get_seq_length()
            own = torch.arange(slots, slots + beams, device=self._device)
            visible[:, torch.arange(beams, device=self._device), own] = True
            logits = self._forward(
                input_ids=last,
                attention_mask=self._mask(visible[:, :, : slots + beams]),
                position_ids=position[:, None].expand(-1, beams),
                past_key_values=cache,
                use_cache=True,
            ).logits
            scores = torch.log_softmax(logits.float(), dim=-1)
            if self._trie is not None:
                self._keep_to_titles(scores, nodes)
            parents, last = search.advance(scores)
            if self._trie is not None:
                of_parent = np.take_along_axis(nodes, parents.cpu().numpy(), axis=1)
                nodes = self._trie.step(of_parent.ravel(), last.cpu().numpy().ravel()).reshape(of_parent.shape)
            visible = visible.gather(1, parents[:, :, None].expand(-1, -1, visible.shape[2]))
            position = position + 1
            open_rows = search.open_rows()
            if not len(open_rows):
                return search.best()
            if len(open_rows) < _SHRINK * len(last):
                search.keep(open_rows)
                cache.batch_select_indices(open_rows)
                visible, last, position = visible[open_rows], last[open_rows], position[open_rows]
                nodes = nodes[open_rows.cpu().numpy()]

    def _prefill(self, prompts: list[Sequence[int]]) -> tuple[Cache, Tensor, Tensor, Tensor]:
        """Keys and values of all prompts but for their last tokens, which are the first to be decoded.

        Returns:
            cache: padded on the right; visible: [B, 1, S] bool, the slots that a position may see;
            last: [B, 1] int64; position: [B] int64 of the last tokens.
        """
        size, prefix = len(prompts), len(self._prefix)
        lengths = torch.tensor([len(prompt) - 1 for prompt in prompts])
        width = int(lengths.max())
        padded = torch.full((size, width + 1), self._end)
        for row, prompt in enumerate(prompts):
            padded[row, : len(prompt)] = torch.tensor(prompt)
        last = padded.gather(1, lengths[:, None])
        total = prefix + width + 1 + self._beams * self._new_tokens
        rooms = [_Room.beginning(keys, values, size, total) for keys, values in self._shared]
        inside = torch.arange(prefix + width) < prefix + lengths[:, None]  # [B, P-1]
        step = max(1, _TOKENS.get(self._device.type, _MANY_TOKENS) // max(1, width))
        for begin in range(0, size, step):
            rows = slice(begin, begin + step)
            last_slot = prefix + int(lengths[rows].max())
            slots = torch.arange(last_slot)
            seen = inside[rows, None, :last_slot] & (slots <= slots[prefix:, None])
            if last_slot > prefix:
                self._forward(
                    input_ids=padded[rows, : last_slot - prefix].to(self._device),
                    attention_mask=self._mask(seen.to(self._device)),
                    position_ids=slots[prefix:].expand(len(seen), -1).to(self._device),
                    past_key_values=Cache(layers=[room.of_rows(rows) for room in rooms]),
                    use_cache=True,
                    logits_to_keep=1,
                )
            for room in rooms:
                room.blank(rows, last_slot, prefix + width)
        for room in rooms:
            room.show(prefix + width)
        visible = torch.zeros(size, 1, total, dtype=torch.bool)
        visible[:, 0, : prefix + width] = inside
        return (
            Cache(layers=[*rooms]),
            visible.to(self._device),
            last.to(self._device),
            (prefix + lengths).to(self._device),
        )

    @torch.inference_mode()
    def _prefix_layers(self) -> list[tuple[Tensor, Tensor]]:
        """Keys and values of the prefix, one pair a layer, [1, heads, tokens, width of a head] each."""
        cache = DynamicCache()
        ids = torch.tensor([self._prefix], device=self._device)
        self._forward(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        layers: Any = cache.layers
        return [(layer.keys, layer.values) for layer in layers]

    def _mask(self, visible: Tensor) -> Tensor:
        """[B, 1, Q, S] in the model's type, to be added to attention scores."""
        mask = torch.zeros(visible.shape, dtype=self._dtype, device=visible.device)
        return mask.masked_fill_(~visible, torch.finfo(self._dtype).min)[:, None]

    def _keep_to_titles(self, scores: Tensor, nodes: np.ndarray) -> None:
        """Rule out, in place, what leads to no title. scores: [B, k, V]; nodes: [B, k]."""
        assert self._trie is not None
        which, tokens = self._trie.list_allowed(nodes.ravel())
        flat = scores.view(-1, scores.shape[-1])
        index = torch.from_numpy(which).to(self._device), torch.from_numpy(tokens).to(self._device)
        kept = flat[index]
        flat.fill_(-torch.inf)
        flat[index] = kept


class _Search:
    """The beams of a batch: transformers' beam search with length penalty 1 (or its greedy search for one beam)."""

    def __init__(self, size: int, beams: int, new_tokens: int, closing: Tensor, end: int, device: torch.device) -> None:
        self._beams, self._limit, self._closing, self._end = beams, new_tokens, closing, end
        self._step = 0
        self._rows = torch.arange(size, device=device)
        self._results: list[list[int] | None] = [None for _ in range(size)]
        self._running = torch.zeros(size, 1, device=device)  # [B, k] sums of log probabilities
        self._tokens = torch.zeros(size, 1, new_tokens, dtype=torch.int64, device=device)
        self._final = torch.full((size, beams), _NEVER, device=device)  # mean log probabilities of what is finished
        self._final_tokens = torch.zeros(size, beams, new_tokens, dtype=torch.int64, device=device)
        self._finished = torch.zeros(size, beams, dtype=torch.bool, device=device)
        self._open = torch.ones(size, dtype=torch.bool, device=device)
        self._poisoned = torch.zeros_like(self._open)

    def advance(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Choose the beams of the next step.

        Args:
            scores: [B, k', V] log probabilities of the next token; k' is 1 in the first step and k afterwards.

        Returns:
            parents: [B, k] the beams they continue; tokens: [B, k] what they add.
        """
        vocabulary = scores.shape[-1]
        sums = (scores + self._running[:, :, None]).flatten(1)
        values, index = sums.topk(2 * self._beams, dim=1)
        self._poisoned |= values.isnan().any(dim=1) & self._open  # to topk NaN is the largest of all
        parents, tokens = index // vocabulary, index % vocabulary
        sequences = self._tokens.gather(1, parents[:, :, None].expand(-1, -1, self._limit))
        sequences[:, :, self._step] = tokens
        self._step += 1
        ends = tokens == self._end
        if self._beams == 1:
            ends |= torch.isin(tokens, self._closing)
        if self._step == self._limit:
            ends = torch.ones_like(ends)
        self._finish(values, sequences, ends)
        running, best = (values + ends * _NEVER).topk(self._beams, dim=1)
        self._running = running
        self._tokens = sequences.gather(1, best[:, :, None].expand(-1, -1, self._limit))
        worst = torch.where(self._finished, self._final.min(dim=1, keepdim=True).values, _NEVER)
        improvable = (running[:, :1] / self._step > worst).any(dim=1)
        if self._beams == 1:
            improvable &= ~self._finished[:, 0]
        self._open &= improvable & ~self._poisoned & (self._step < self._limit)
        return parents.gather(1, best), tokens.gather(1, best)

    def _finish(self, values: Tensor, sequences: Tensor, ends: Tensor) -> None:
        """Take those of the top k that ended among the k best finished ones."""
        new = ends.clone()
        new[:, self._beams :] = False
        means = values / self._step + (~new) * _NEVER + (~self._open)[:, None] * _NEVER
        merged, best = torch.cat([self._final, means], dim=1).topk(self._beams, dim=1)
        self._final = merged
        self._finished = torch.cat([self._finished, new], dim=1).gather(1, best)
        both = torch.cat([self._final_tokens, sequences], dim=1)
        self._final_tokens = both.gather(1, best[:, :, None].expand(-1, -1, self._limit))

    def open_rows(self) -> Tensor:
        """Indices of the prompts that are still being written."""
        return self._open.nonzero()[:, 0]

    def keep(self, rows: Tensor) -> None:
        """Store the results of all other prompts, and forget them."""
        self._store()
        for name in (
            "_rows",
            "_running",
            "_tokens",
            "_final",
            "_final_tokens",
            "_finished",
            "_open",
            "_poisoned",
        ):
            setattr(self, name, getattr(self, name)[rows])

    def best(self) -> list[list[int] | None]:
        """The best text of every prompt the search began with; None where a score was not a number."""
        self._store()
        return self._results

    def _store(self) -> None:
        stops = {self._end, *self._closing.tolist()}
        texts = self._final_tokens[:, 0, : self._step].tolist()
        for row, tokens, poisoned in zip(self._rows.tolist(), texts, self._poisoned.tolist(), strict=True):
            length = next((i + 1 for i, token in enumerate(tokens) if token in stops), len(tokens))
            self._results[row] = None if poisoned else tokens[:length]


class _Room(DynamicLayer):
    """Keys and values of one layer in memory taken once: two tensors [B, heads, S, width of a head]."""

    def __init__(self, rooms: list[Tensor], used: int) -> None:
        super().__init__()
        self.dtype, self.device, self.is_initialized = rooms[0].dtype, rooms[0].device, True
        self._rooms = rooms
        self.show(used)

    @classmethod
    def beginning(cls, keys: Tensor, values: Tensor, rows: int, slots: int) -> "_Room":
        """Room for some rows that all begin with the same keys and values."""
        made = cls([one.new_empty(rows, one.shape[1], slots, one.shape[3]) for one in (keys, values)], 0)
        made.update(keys, values)
        return made

    def of_rows(self, rows: slice) -> "_Room":
        """The room of some rows, in the same memory."""
        return _Room([room[rows] for room in self._rooms], self._used)

    def blank(self, rows: slice, begin: int, end: int) -> None:
        """Zeros where nothing is written: masked or not, what is read must be finite."""
        for room in self._rooms:
            room[rows, :, begin:end] = 0

    def show(self, used: int) -> tuple[Tensor, Tensor]:
        self._used = used
        keys, values = (room[:, :, :used] for room in self._rooms)
        self.keys, self.values = keys, values
        return keys, values

    def update(
        self,
        key_states: Tensor,
        value_states: Tensor,
        *args: Any,  # noqa: ARG002
        **kwargs: Any,  # noqa: ARG002
    ) -> tuple[Tensor, Tensor]:
        used = self._used + key_states.shape[2]
        for room, states in zip(self._rooms, (key_states, value_states), strict=True):
            room[:, :, self._used : used] = states
        return self.show(used)

    def batch_select_indices(self, indices: Tensor) -> None:
        self._rooms = [room[indices] for room in self._rooms]
        self.show(self._used)
