import math

import torch
from torch.nn import functional

from recsys.losses.info_nce import info_nce


def test_it_equals_a_naive_loop() -> None:
    torch.manual_seed(0)
    hidden, vectors = torch.randn(4, 5), torch.randn(9, 5)
    targets, drawn = torch.tensor([2, 7, 2, 8]), torch.tensor([7, 1, 4])
    expected = 0.0
    for state, target in zip(hidden, targets.tolist(), strict=True):
        others = [j for j in drawn.tolist() if j != target]
        estimate = (40 - 1) / len(others) * sum(math.exp(float(state @ vectors[j])) for j in others)
        own = math.exp(float(state @ vectors[target]))
        expected -= math.log(own / (own + estimate))
    torch.testing.assert_close(info_nce(hidden, vectors, targets, drawn, num_items=40), torch.tensor(expected))


def test_with_all_items_drawn_it_is_the_softmax_over_the_catalogue() -> None:
    torch.manual_seed(1)
    hidden, vectors, targets = torch.randn(6, 4), torch.randn(12, 4), torch.randint(1, 12, (6,))
    loss = info_nce(hidden, vectors, targets, torch.randperm(11) + 1, num_items=11)
    softmax = functional.cross_entropy(hidden @ vectors[1:].T, targets - 1, reduction="sum")
    torch.testing.assert_close(loss, softmax)
