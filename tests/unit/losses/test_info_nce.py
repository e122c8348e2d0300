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


def test_what_is_as_good_as_the_target_is_left_out() -> None:
    torch.manual_seed(2)
    vectors = functional.normalize(torch.randn(8, 4), dim=1)
    vectors[5] = functional.normalize(vectors[3] + 0.01 * torch.randn(4), dim=0)
    hidden, targets = torch.randn(3, 4), torch.tensor([3, 5, 1])
    assert float(vectors[3] @ vectors[5]) > 0.99
    expected = 0.0
    for state, target in zip(hidden, targets.tolist(), strict=True):
        others = [j for j in range(1, 8) if float(vectors[j] @ vectors[target]) <= 0.99]
        scores = state @ vectors[[target, *others]].T
        expected += float(scores.logsumexp(dim=0) - scores[0])
    loss = info_nce(hidden, vectors, targets, torch.arange(1, 8), num_items=7, duplicate_similarity=0.99)
    torch.testing.assert_close(loss, torch.tensor(expected))


def test_with_all_items_drawn_it_is_the_softmax_over_the_catalogue() -> None:
    torch.manual_seed(1)
    hidden, vectors, targets = torch.randn(6, 4), torch.randn(12, 4), torch.randint(1, 12, (6,))
    loss = info_nce(hidden, vectors, targets, torch.randperm(11) + 1, num_items=11)
    softmax = functional.cross_entropy(hidden @ vectors[1:].T, targets - 1, reduction="sum")
    torch.testing.assert_close(loss, softmax)
