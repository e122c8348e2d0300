"""The item table of a student, plain or enriched by the teacher's embeddings."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recsys.data.prepared import Catalogue
from recsys.histories import Histories
from recsys.model import CausalRecommender
from recsys.signals.embeddings import standardise
from recsys.students.config import TableConfig
from recsys.students.titles import TitleProjector

PROJECTOR = "items.projector."
"""What the names of the projector's weights begin with in an exported state."""

INITIAL_DEVIATION = 0.02
"""Of learned vectors at first, as in BERT: what is rarely seen stays near zero, where at 1/√D it would stay noise."""


class ItemTable(nn.Module):
    """A learnable vector per item; row 0 is padding.

    Calling it gives the table, [N+1, D].
    """

    def __init__(self, num_items: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(num_items + 1, width) * INITIAL_DEVIATION)
        with torch.no_grad():
            self.weight[0].zero_()

    def forward(self) -> Tensor:
        return self.weight

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        """An exported state may bring the projector that the table was made with; only new items need it."""
        if type(self) is ItemTable:
            for name in [name for name in state_dict if name.startswith(f"{prefix}projector.")]:
                del state_dict[name]
        super()._load_from_state_dict(state_dict, prefix, *rest)


class DistilledItemTable(ItemTable):
    """Collaborative embedding distillation (DLLM2Rec, arXiv 2405.00338, eq. 12-13): e_i = b_i + mix · g(z_i).

    z_i is the teacher's embedding of the item, frozen and standardised to a length of about 1: Adam moves every weight
    of g by the learning rate, and so g(z) by that times the length of z, which at √Z drowns what b_i learns
    (docs/experiments). g is a learnable projector, b_i a learnable offset, zero at first: what is rarely seen stays
    where the teacher puts it. `export_state` computes the table once for serving, so that a served student carries no
    language-model weights.

    Args:
        teacher: [N+1, Z] float32, row 0 padding.
        hidden: width of the projector's hidden layer, 0 for a linear one.
    """

    teacher: Tensor

    def __init__(self, teacher: Tensor, width: int, *, hidden: int, mix: float) -> None:
        super().__init__(len(teacher) - 1, width)
        scaled, self.mean, self.scale = standardise(teacher)
        z = teacher.shape[1]
        self.register_buffer("teacher", scaled, persistent=True)
        nn.init.zeros_(self.weight)
        # Initial weights that give g(z) a length of about 1.
        if hidden:
            first, last = nn.Linear(z, hidden), nn.Linear(hidden, width)
            nn.init.normal_(first.weight, std=1.0)
            nn.init.normal_(last.weight, std=(hidden * width) ** -0.5)
            self.projector: nn.Module = nn.Sequential(first, nn.GELU(), last)
        else:
            self.projector = last = nn.Linear(z, width)
            nn.init.normal_(last.weight, std=width**-0.5)
        nn.init.zeros_(last.bias)
        self.mix = mix

    def forward(self) -> Tensor:
        return self.weight + self.mix * self.projector(self.teacher)


class TableRecommender(CausalRecommender):
    """A student whose item vectors, shared by input and output, are an item table, compared by `similarity`.

    Attributes:
        title_projector: gives new items their vectors; None where the checkpoint has none.
    """

    config: TableConfig
    items: ItemTable
    title_projector: TitleProjector | None = None

    def __init__(self, config: TableConfig, *, num_items: int) -> None:
        super().__init__(config, num_items=num_items)
        self.items = ItemTable(num_items, config.width)

    def item_vectors(self) -> Tensor:
        vectors = self.items()
        return F.normalize(vectors, dim=-1) if self.config.similarity == "cosine" else vectors

    def read(self, histories: Histories, vectors: Tensor | None) -> Tensor:
        """[B, L, D]: the vectors of the items, times √D: the entries of vectors of unit length have variance 1 then."""
        table = self.item_vectors() if vectors is None else vectors
        return F.embedding(histories.items, table) * self.config.width**0.5

    def apply_similarity(self, hidden: Tensor) -> Tensor:
        """What the item vectors are multiplied with, so that the products are the scores that `similarity` names."""
        cosine = self.config.similarity == "cosine"
        return F.normalize(hidden, dim=-1) / self.config.temperature if cosine else hidden

    def export_state(self) -> dict[str, Tensor]:
        """With everything under `items.` replaced by the one table the items amount to, and the projector of a
        distilled student, which serving does not read."""
        own = self.state_dict()
        kept = {name: own[name] for name in own if not name.startswith("items.") or name.startswith(PROJECTOR)}
        table = self.items().detach().clone()
        table[0] = 0
        return {**kept, "items.weight": table}

    def save_files(self, directory: Path) -> None:
        if self.title_projector is not None:
            self.title_projector.save(directory)

    def load_files(self, directory: Path, catalogue: Catalogue) -> None:  # noqa: ARG002
        self.title_projector = TitleProjector.load(directory)

    def with_items(self, vectors: Tensor) -> "TableRecommender":
        """A copy with further items, after the others, by their vectors [M, D]."""
        state = self.state_dict()
        longer = type(self)(self.config, num_items=self.num_items + len(vectors))
        table = state["items.weight"]
        longer.load_state_dict({**state, "items.weight": torch.cat([table, vectors.to(table)])})
        longer.title_projector = self.title_projector
        return longer.to(table.device).eval()
