"""Recommenders on a stack of decoder layers, whose depth is a dial: read out at any layer, cut to fewer layers.

After "SLMRec: Distilling Large Language Models into Small for Sequential Recommendation" (Xu et al., ICLR 2025, arXiv
2405.17890), whose finding is that most layers of a language model are redundant for recommendation.

Legend: B batch, L history, S positions of the decoder, H width of the decoder, D width of the item vectors, M layers.
"""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from torch import Tensor

from recsys.config import from_dict, to_dict
from recsys.data.prepared import PreparedDataset
from recsys.decoders.compression import lay_out
from recsys.decoders.config import CompressionConfig, LoRAConfig
from recsys.decoders.decoder import choose_layers, keep_only_layers, outputs_of, save_decoder
from recsys.decoders.lora import adapters, add_adapters, merge_adapters, save_adapters
from recsys.errors import UserError
from recsys.histories import Histories
from recsys.model import CausalRecommender
from recsys.teacher import Teacher

_TRAINED = "adapters/"


class LayeredTeacher(Teacher, CausalRecommender):
    """A teacher that reads a history by a causal decoder (`recsys.decoders.decoder`).

    Predicting is three steps, so that each can be had alone: `run` the decoder, pick the states that stand for items
    (`at_items`), `read_out` what is expected next.

    Attributes:
        compression: how its weights were made smaller (`recsys.decoders.compression`), None for not at all.
    """

    compression: CompressionConfig | None = None
    _adapted: tuple[LoRAConfig, str] | None = None  # adapters that are trained, and the pretrained model they are of
    _adapters: dict[str, Tensor] | None = None  # once they are

    @property
    def decoder(self) -> Any:
        """The stack of layers, with its final `norm`."""
        raise NotImplementedError

    def run(self, histories: Histories, vectors: Tensor) -> Tensor:
        """The decoder's last states behind its norm, [B, S, H]."""
        raise NotImplementedError

    def at_items(self, states: Tensor, length: int) -> Tensor:
        """[B, S, H] → [B, L, H]: the states from which the item after each of L items is predicted."""
        raise NotImplementedError

    def read_out(self, states: Tensor, vectors: Tensor) -> Tensor:
        """[…, H] behind the norm → […, D], of which the dot products with `vectors` are the scores."""
        raise NotImplementedError

    def fresh(self, layers: int | Sequence[int], *, width: int | None = None, heads: int | None = None) -> Self:
        """A model of fewer layers for the same catalogue that has not learned this model's task yet.

        From scratch its weights are drawn anew (width and heads may differ); otherwise they are the pretrained ones.

        Args:
            layers: numbers of the layers to keep, from 1, or how many of the first.

        Raises:
            UserError: a pretrained model cannot change its width, or is not there; width and heads do not fit each
                other.
        """
        raise NotImplementedError

    def _cut_config(self, base: Sequence[int]) -> Any:
        """This model's configuration, once its decoder has been cut.

        Args:
            base: see `base_layers`.
        """
        raise NotImplementedError

    def hidden(self, histories: Histories, vectors: Tensor | None = None) -> Tensor:
        vectors = self.item_vectors() if vectors is None else vectors
        return self.read_out(self.at_items(self.run(histories, vectors), histories.items.shape[1]), vectors)

    @property
    def lora(self) -> LoRAConfig | None:
        """The adapters that its decoder was trained by, None where all its weights were."""
        raise NotImplementedError

    def adapt(self, lora: LoRAConfig, base: str | None = None) -> None:
        """Freeze the decoder and train adapters on it; a checkpoint has them merged.

        Args:
            base: transformers id or path of the decoder; then they are beside the checkpoint too, as peft has them.
        """
        add_adapters(self.decoder, lora)
        self._adapted = None if base is None else (lora, base)

    def export_state(self) -> dict[str, Tensor]:
        """With the decoder's adapters where the model was adapted, for `finish` to take out."""
        state = merge_adapters(self.state_dict(), self)
        if self._adapted is None:
            return state
        return state | {f"{_TRAINED}{n}": t for n, t in adapters(self.decoder.state_dict()).items()}

    def finish(self, state: dict[str, Tensor], dataset: PreparedDataset) -> dict[str, Tensor]:  # noqa: ARG002
        if self._adapted is not None:
            self._adapters = {n.removeprefix(_TRAINED): t for n, t in state.items() if n.startswith(_TRAINED)}
        return {name: tensor for name, tensor in state.items() if not name.startswith(_TRAINED)}

    def save_files(self, directory: Path) -> None:
        if self._adapted is not None and self._adapters is not None:
            save_adapters(self._adapters, *self._adapted, directory / "adapter")

    def layout(self) -> dict[str, Any]:
        return {} if self.compression is None else {"compression": to_dict(self.compression)}

    def lay_out(self, said: Mapping[str, Any]) -> None:
        if "compression" in said:
            lay_out(self, from_dict(CompressionConfig, said["compression"]))

    @property
    def depth(self) -> int:
        """M."""
        return len(self.decoder.layers)

    @property
    def width(self) -> int:
        """H."""
        return int(self.decoder.config.hidden_size)

    def states(self, histories: Histories, layers: Sequence[int], vectors: Tensor | None = None) -> dict[int, Tensor]:
        """The states [B, L, H] after each of the given layers (1..M), those of layer M behind the final norm.

        These are the hidden states as transformers (and with it SLMRec's code) counts them.
        """
        vectors = self.item_vectors() if vectors is None else vectors
        with outputs_of(self.decoder, [number for number in layers if number < self.depth]) as found:
            last = self.run(histories, vectors)
        length = histories.items.shape[1]
        return {n: self.at_items(found[n] if n < self.depth else last, length) for n in layers}

    def readouts(self, histories: Histories, layers: Sequence[int], vectors: Tensor | None = None) -> dict[int, Tensor]:
        """`hidden` of the model cut to its first n layers, for several n in one pass: n → [B, L, D]."""
        vectors = self.item_vectors() if vectors is None else vectors
        states = self.states(histories, layers, vectors)
        return {
            number: self.read_out(state if number == self.depth else self.decoder.norm(state), vectors)
            for number, state in states.items()
        }

    def cut(self, layers: int | Sequence[int]) -> Self:
        """A copy with fewer layers, nothing retrained; saved, it is an ordinary checkpoint of its kind.

        Args:
            layers: numbers of the layers to keep, from 1, or how many of the first.

        Raises:
            UserError: the model has no such layers, or is compressed.
        """
        if self.compression is not None:
            raise UserError("a compressed model is not cut any more; cut the one it was made from, then compress")
        numbers, base = choose_layers(self.depth, layers), self.base_layers(layers)
        with keep_only_layers(self.decoder, numbers):
            made = copy.deepcopy(self)
        for place, layer in enumerate(made.decoder.layers):
            layer.self_attn.layer_idx = place  # where a layer finds its keys and values in a cache
        made.config = made._cut_config(base)
        return made

    def base_layers(self, layers: int | Sequence[int]) -> list[int]:
        """Which layers of the pretrained model, from 1, these layers of this one began as.

        Raises:
            UserError: this model has no such layers.
        """
        base = self.config.base_layers
        own = range(1, self.depth + 1) if base is None or isinstance(base, int) else base
        return [own[number - 1] for number in choose_layers(self.depth, layers)]

    def save_transformers(self, path: str | Path) -> None:
        """Write the decoder alone as an ordinary transformers model, which `AutoModel.from_pretrained(path)` loads.

        It has no table of words, for it reads vectors (`inputs_embeds`), so transformers draws one at random. What is
        outside of the stack of layers (item vectors, projections, prompts) is in this project's checkpoint alone.

        Raises:
            UserError: the model is compressed, which transformers has no form for.
        """
        if self.compression is not None:
            raise UserError("transformers has no form for a compressed model; export the one that it was made from")
        save_decoder(self.decoder, merge_adapters(self.decoder.state_dict(), self.decoder), Path(path))


def check_same_size(width: int | None, heads: int | None) -> None:
    """Raise a `UserError` where a pretrained model is asked to change its width."""
    if width or heads:
        raise UserError("a pretrained decoder keeps its width and heads; leave model.width and model.heads out")
