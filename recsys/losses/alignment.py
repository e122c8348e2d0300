"""Block-wise knowledge transfer from a deep recommender to a shallow one (SLMRec, ICLR 2025, arXiv 2405.17890).

h_t^(km) and h_s^(kn) are the states after block k = 1..B of teacher and student, m and n layers per block. Every loss
is a sum over positions; over blocks it is a mean (`paper`, as printed) or a sum (`code`, as the authors compute it).

Legend: P positions with a target, N items, H width of the states, B blocks.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from recsys.errors import UserError
from recsys.losses.scores import CatalogueScores

Form = Literal["paper", "code"]


def cosine_alignment(student: Sequence[Tensor], teacher: Sequence[Tensor], form: Form = "paper") -> Tensor:
    """1 − D_cos, D_cos = (1/B) Σ_k cos(h_t^(km), h_s^(kn)).

    Args:
        student, teacher: B tensors [P, H].
    """
    pairs = zip(student, teacher, strict=True)
    return _over_blocks([(1 - functional.cosine_similarity(s, t, dim=-1)).sum() for s, t in pairs], form)


def norm_alignment(student: Sequence[Tensor], teacher: Sequence[Tensor], form: Form = "paper") -> Tensor:
    """D_norm = (1/B) Σ_k ‖h_t^(km) − h_s^(kn)‖²; the code takes the norm without the square.

    Args:
        student, teacher: B tensors [P, H].
    """
    differences = [t - s for s, t in zip(student, teacher, strict=True)]
    if form == "paper":
        return _over_blocks([difference.square().sum() for difference in differences], form)
    return _over_blocks([torch.linalg.vector_norm(difference, dim=-1).sum() for difference in differences], form)


def multi_supervision(scores: Sequence[CatalogueScores], targets: Tensor, form: Form = "paper") -> Tensor:
    """L_ms = (1/(B−1)) Σ_{k=1..B−1} L_ce(y, p^(km)).

    Args:
        scores: B − 1 of them, of P positions.
        targets: [P] in 1..N.
    """
    column = targets[:, None] - 1
    return _over_blocks([-score.log_probability_PN.gather(1, column).sum() for score in scores], form)


def logit_alignment(student: CatalogueScores, teacher: CatalogueScores) -> Tensor:
    """KL(teacher ‖ student) over the catalogue."""
    return functional.kl_div(student.log_probability_PN, teacher.log_probability_PN, reduction="sum", log_target=True)


def block_ends(depth: int, blocks: int) -> list[int]:
    """The last layer of each block, from 1: m, 2m, …, M."""
    assert depth % blocks == 0
    return [depth // blocks * block for block in range(1, blocks + 1)]


def check_blocks(student: int, teacher: int, blocks: int) -> None:
    """Raise a `UserError` where layers cannot be grouped into this many blocks.

    Args:
        student, teacher: their depths.
    """
    if student % blocks or teacher % blocks:
        possible = ", ".join(map(str, common_blocks(student, teacher)))
        raise UserError(
            f"alignment.blocks is {blocks}, which does not divide both the student's {student} and the teacher's "
            f"{teacher} layers; possible: {possible}"
        )


def common_blocks(student: int, teacher: int) -> list[int]:
    """The numbers of blocks that divide both depths."""
    return [blocks for blocks in range(1, min(student, teacher) + 1) if not student % blocks and not teacher % blocks]


def _over_blocks(losses: Sequence[Tensor], form: Form) -> Tensor:
    total = torch.stack(list(losses)).sum()
    return total / len(losses) if form == "paper" else total
