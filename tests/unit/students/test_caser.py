import torch
from torch.nn import functional as F

from recsys.histories import Histories
from recsys.students.caser import Caser
from recsys.students.config import CaserConfig

ITEMS = 30


def made(**options: int) -> Caser:
    torch.manual_seed(0)
    return Caser(CaserConfig(width=6, **options), num_items=ITEMS).eval()


@torch.no_grad()
def test_every_position_equals_loops_over_the_windows_of_the_paper() -> None:
    model = made(window=4, horizontal_filters=3, vertical_filters=2)
    items = torch.randint(1, ITEMS + 1, (2, 7))
    found = model.hidden(Histories.of(items))
    read = model.items.weight[items] * 6**0.5
    for row in range(2):
        for place in range(7):
            image = torch.zeros(4, 6)  # E, the latest item last
            for behind in range(min(4, place + 1)):
                image[3 - behind] = read[row, place - behind]
            features = []
            for height in range(1, 5):
                layer = model.horizontal[height - 1]
                for filter_DH, bias in zip(layer.weight, layer.bias, strict=True):
                    answers = [
                        torch.relu((image[top : top + height] * filter_DH.T).sum() + bias)
                        for top in range(4 - height + 1)
                    ]
                    features.append(max(answers))
            for weight_L, bias in zip(model.vertical.weight, model.vertical.bias, strict=True):
                features += [sum(w * x for w, x in zip(weight_L, image[:, d], strict=True)) + bias for d in range(6)]
            expected = F.linear(torch.stack(features), model.out.weight, model.out.bias)
            torch.testing.assert_close(found[row, place], expected)


def test_what_lies_before_the_window_is_not_seen() -> None:
    model = made(window=3)
    items = torch.randint(1, ITEMS, (1, 8))
    other, last = items.clone(), items.clone()
    other[:, :5] += 1
    last[:, 5] += 1
    seen = [model.query(Histories.of(each)) for each in (items, other, last)]
    assert torch.equal(seen[0], seen[1]) and not torch.allclose(seen[0], seen[2])


def test_a_window_may_be_longer_than_the_history() -> None:
    assert made(window=9).hidden(Histories.of(torch.tensor([[3]]))).shape == (1, 1, 6)
