import torch

from recsys.histories import Histories


def test_they_say_how_long_they_are() -> None:
    shown = Histories.of(torch.tensor([[3, 1, 0, 0], [2, 0, 0, 0]]))
    assert len(shown) == 2 and shown.lengths.tolist() == [2, 1] and shown.times is None
    assert shown.trim().items.tolist() == [[3, 1], [2, 0]]


def test_some_of_them_keep_what_belongs_to_them(random_dataset) -> None:
    dataset = random_dataset()
    rows = dataset.rows("test")
    whole = Histories.of_rows(dataset, rows)
    for some in (slice(3, 7), torch.tensor([5, 2])):
        chosen = rows[some] if isinstance(some, slice) else rows[some.numpy()]
        found, expected = whole[some].to("cpu").trim(), Histories.of_rows(dataset, chosen).trim()
        assert all(torch.equal(getattr(found, n), getattr(expected, n)) for n in ("items", "lengths", "times"))
