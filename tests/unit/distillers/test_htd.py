import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from recsys.data.prepared import PreparedDataset
from recsys.distiller import Step
from recsys.distillers.htd import HTD, HTDConfig, compare_topology
from recsys.signals.signals import TeacherSignals


def cosine(a: list[float], b: list[float]) -> float:
    product = sum(x * y for x, y in zip(a, b, strict=True))
    return product / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def naive_topology(student: Tensor, teacher: Tensor, group: list[int]) -> float:
    sides = [student.double().tolist(), teacher.double().tolist()]
    pairs = [(i, j) for i in range(len(group)) for j in range(len(group)) if group[i] == group[j]]
    within = [(cosine(sides[0][i], sides[0][j]) - cosine(sides[1][i], sides[1][j])) ** 2 for i, j in pairs]

    def mean(side: list[list[float]], g: int) -> list[float]:
        members = [v for v, at in zip(side, group, strict=True) if at == g]
        return [sum(each[d] for each in members) / len(members) for d in range(len(members[0]))]

    prototypes = [[mean(side, g) for g in sorted(set(group))] for side in sides]
    count = range(len(prototypes[0]))
    between = [
        (cosine(prototypes[0][a], prototypes[0][b]) - cosine(prototypes[1][a], prototypes[1][b])) ** 2
        for a in count
        for b in count
    ]
    return sum(within) / len(within) + sum(between) / len(between)


def test_topology_is_the_loop_over_pairs() -> None:
    torch.manual_seed(0)
    student, teacher, group = torch.randn(9, 3), torch.randn(9, 5), [4, 0, 0, 2, 4, 4, 0, 7, 2]
    found = compare_topology(student, teacher, torch.tensor(group))
    assert found.item() == pytest.approx(naive_topology(student, teacher, group), rel=1e-5)
    assert compare_topology(teacher @ torch.linalg.qr(torch.randn(5, 5))[0] * 3, teacher, torch.tensor(group)) < 1e-10


def test_the_loss_is_the_loop_over_items_and_groups(
    dataset: PreparedDataset, make_signals: Callable[..., TeacherSignals], step: Step
) -> None:
    config = HTDConfig(groups=3, topology=0.3, temperature=0.8)
    torch.manual_seed(2)
    distiller = HTD.build(config, make_signals(), dataset, width=6)
    torch.manual_seed(9)
    loss = distiller(step)
    items = step.targets.unique()
    student, teacher = step.vectors_ND[items], distiller.teacher[items]
    torch.manual_seed(9)
    logits = distiller.assignment(teacher)
    shares = F.gumbel_softmax(logits, tau=0.8)
    assigned = 0.0
    for u in range(len(items)):
        mapped = sum(shares[u, g] * distiller.mappings[g](student[u]) for g in range(3))
        assigned += float((teacher[u] - mapped).detach().square().sum()) / len(items)
    topology = naive_topology(student, teacher, logits.argmax(dim=1).tolist())
    assert loss.item() == pytest.approx((0.3 * topology + 0.7 * assigned) * len(step.targets), rel=1e-4)
