"""HTD, hierarchical topology distillation (Kang et al., KDD 2021), of items.

Legend: U items at hand, G groups, Z width of the teacher's embeddings, D of the student's vectors.
"""

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recsys.config import Field, configuration
from recsys.distillers.embeddings import EmbeddingConfig, EmbeddingDistiller


@configuration
class HTDConfig(EmbeddingConfig):
    """
    Attributes:
        groups: G, of items.
        topology: γ, share of the topology beside the assignment to groups.
        temperature: of the assignment (Gumbel softmax).
    """

    distiller: ClassVar[str] = "recsys.distillers.htd:HTD"
    kind: Literal["htd"] = "htd"
    groups: int = Field(default=30, ge=1)
    topology: float = Field(default=0.5, ge=0, le=1)
    temperature: float = Field(default=0.1, gt=0)


class HTD(EmbeddingDistiller):
    """γ (topology within groups + topology between groups) + (1 − γ) assignment.

    Assignment: a network over z_i gives each item its probabilities of G groups; each group has a mapping f_g from the
    student's vector to the teacher's embedding, and ‖z_i − Σ_g α_g f_g(e_i)‖², with α drawn by the Gumbel softmax, is
    what mappings and assignment learn from. Topology: an item is of its likeliest group; the student's cosines equal
    the teacher's between items of one group, and between the groups' prototypes, the means of their items. Of the two
    forms of the paper it is that of prototypes with each other; prototypes carry no gradient in the authors' code,
    which would leave that term without effect, so here they do. Means over pairs take the place of sums.
    """

    config: HTDConfig

    def __init__(self, config: HTDConfig, teacher: Tensor, *, width: int) -> None:
        super().__init__(config, teacher, width=width)
        z = teacher.shape[1]
        self.assignment = nn.Linear(z, config.groups)
        self.mappings = nn.ModuleList(
            nn.Sequential(nn.Linear(width, (width + z) // 2), nn.ReLU(), nn.Linear((width + z) // 2, z))
            for _ in range(config.groups)
        )

    def compare(self, student_UD: Tensor, teacher_UZ: Tensor) -> Tensor:
        logits_UG = self.assignment(teacher_UZ)
        shares_UG = F.gumbel_softmax(logits_UG, tau=self.config.temperature)
        mapped_UGZ = torch.stack([mapping(student_UD) for mapping in self.mappings], dim=1)
        assigned = (teacher_UZ - torch.einsum("ug,ugz->uz", shares_UG, mapped_UGZ)).square().sum(dim=1).mean()
        topology = compare_topology(student_UD, teacher_UZ, logits_UG.argmax(dim=1))
        return self.config.topology * topology + (1 - self.config.topology) * assigned


def compare_topology(student_UD: Tensor, teacher_UZ: Tensor, group: Tensor) -> Tensor:
    """Mean squared difference of student's and teacher's cosines, over the pairs of items of one group, plus the same
    over the pairs of groups' prototypes.

    Args:
        group: [U] of each item.
    """
    same = group[:, None] == group[None, :]
    within = (_cosines(student_UD) - _cosines(teacher_UZ)).square()[same].mean()
    _, number = group.unique(return_inverse=True)
    members = F.one_hot(number).to(student_UD.dtype).T  # sums: cosines know no length
    return within + (_cosines(members @ student_UD) - _cosines(members @ teacher_UZ)).square().mean()


def _cosines(vectors: Tensor) -> Tensor:
    unit = F.normalize(vectors, dim=1)
    return unit @ unit.T
