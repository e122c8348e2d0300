"""One interface for every sequential recommender, teacher or student.

Legend: B batch, L history, N items, D width.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from recsys.data.prepared import Catalogue
from recsys.errors import UserError
from recsys.histories import Histories
from recsys.kinds import recommender_class


class SequentialRecommender(nn.Module):
    """Reads a history and scores the whole catalogue.

    A subclass names its configuration class in `Config`, and is built as `cls(config, num_items=N)`; whatever else it
    needs (a table of title embeddings, say) is a buffer, so that `config.json` and `model.safetensors` suffice.
    """

    kind: ClassVar[str]
    Config: ClassVar[type]
    uses_times: bool = False
    """Whether it looks at when the items of a history were met."""

    def __init__(self, config: Any, *, num_items: int) -> None:
        super().__init__()
        self.config = config
        self.num_items = num_items

    def item_vectors(self) -> Tensor:
        """[N+1, D]: what is computed of the items alone, once for many histories; row 0 is padding."""
        raise NotImplementedError

    def scores(self, histories: Histories, vectors: Tensor | None = None) -> Tensor:
        """[B, N+1] float32, the score of every item after each history; column 0 is padding and not to be ranked.

        Args:
            vectors: `item_vectors()` where the caller has it already.
        """
        raise NotImplementedError

    def save_files(self, directory: Path) -> None:
        """Write what a checkpoint needs besides weights and catalogue, a tokenizer say, into its directory."""

    def load_files(self, directory: Path, catalogue: Catalogue) -> None:
        """Read what `save_files` wrote; called once the weights are loaded."""

    def layout(self) -> dict[str, Any]:
        """What `config.json` says, besides the configuration, of how the modules differ from newly built ones."""
        return {}

    def lay_out(self, said: Mapping[str, Any]) -> None:
        """Give a newly built model the modules of the one whose `config.json` this is, before its weights are loaded.

        Raises:
            UserError: its kind has no such form.
        """
        if "compression" in said:
            raise UserError(f"config.json calls a model of kind {self.kind} compressed, which cannot be; save it again")

    def before_export(self) -> None:
        """Compute what `export_state` needs of all training processes; each of them calls it before one exports."""

    def export_state(self) -> dict[str, Tensor]:
        """Weights to save for serving; a model that trains with more than it serves with folds the rest in here."""
        return self.state_dict()


class CausalRecommender(SequentialRecommender):
    """Reads a history from left to right, so that one pass over it predicts after every item of it."""

    def hidden(self, histories: Histories, vectors: Tensor | None = None) -> Tensor:
        """What the model expects after each position: [B, L, D], of which position l depends on items 0..l alone, and
        of which the dot products with `item_vectors` are the scores. Values at padding are arbitrary but finite.
        Arguments as of `scores`."""
        raise NotImplementedError

    def query(self, histories: Histories, vectors: Tensor | None = None) -> Tensor:
        """`hidden` at the last item of each history, [B, D]."""
        hidden = self.hidden(histories, vectors)
        return hidden[torch.arange(len(hidden), device=hidden.device), histories.lengths - 1]

    def scores(self, histories: Histories, vectors: Tensor | None = None) -> Tensor:
        vectors = self.item_vectors() if vectors is None else vectors
        return self.query(histories, vectors).float() @ vectors.float().T


@dataclass(frozen=True)
class Made:
    """A student made of finished models, nothing trained.

    Attributes:
        line: what was done, in a line for the user.
        metrics: what the run records; training: what its checkpoint says besides the training of what it is made from.
    """

    model: SequentialRecommender
    line: str
    metrics: dict[str, float]
    training: dict[str, Any] = field(default_factory=dict)


def model_class(kind: str) -> type[SequentialRecommender]:
    """The class behind a kind.

    Raises:
        UserError: there is no such kind.
    """
    found: type[SequentialRecommender] = recommender_class(kind)
    return found
