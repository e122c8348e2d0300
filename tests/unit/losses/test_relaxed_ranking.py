import math

import pytest
import torch

from recsys.losses.relaxed_ranking import relaxed_ranking_loss


@pytest.mark.parametrize("masked", [False, True])
def test_it_is_the_loop_over_positions_and_places(masked: bool) -> None:
    torch.manual_seed(0)
    above, below = torch.randn(6, 4, requires_grad=True), torch.randn(6, 3)
    held, low = torch.ones(6, 4, dtype=torch.bool), torch.ones(6, 3, dtype=torch.bool)
    if masked:
        held, low = torch.rand(6, 4) < 0.6, torch.rand(6, 3) < 0.6
        held[0], low[1] = False, False
        held[2], low[2] = True, False
    expected = 0.0
    for p in range(6):
        y = [v for v, use in zip(above[p].tolist(), held[p].tolist(), strict=True) if use]
        others = [v for v, use in zip(below[p].tolist(), low[p].tolist(), strict=True) if use]
        for k in range(len(y)):
            expected -= y[k] - math.log(sum(math.exp(v) for v in y[k:]) + sum(math.exp(v) for v in others))
    loss = relaxed_ranking_loss(above, below, held, low) if masked else relaxed_ranking_loss(above, below)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    loss.backward()
    assert torch.isfinite(above.grad).all() and not above.grad[~held].any()


def test_of_no_rows_it_is_nothing() -> None:
    assert relaxed_ranking_loss(torch.zeros(0, 2), torch.zeros(0, 3)).item() == 0
