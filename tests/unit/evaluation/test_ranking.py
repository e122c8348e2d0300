import numpy as np
import pytest
import torch
from torch import Tensor

from recsys.data.prepared import PreparedDataset
from recsys.evaluation.ranking import find_seen_targets, model_scorer, rank_targets
from recsys.histories import Histories
from recsys.students.config import SASRecConfig
from recsys.students.sasrec import SASRec


def coarse_scores(num_items: int) -> "object":
    """A scorer with many ties that depends on the history."""

    def score(histories: Histories) -> Tensor:
        last = histories.items.gather(1, histories.lengths[:, None] - 1)
        return ((torch.arange(num_items + 1) * 7 + last * 3) % 5).float()

    return score


def naive_rank(scores: np.ndarray, target: int, excluded: set[int]) -> int:
    if target in excluded:
        return len(scores)  # N + 1: it cannot be found
    rank = 1
    for item in range(1, len(scores)):
        if item != target and item not in excluded and scores[item] >= scores[target]:
            rank += 1
    return rank


@pytest.mark.parametrize("mask_seen", [True, False])
@pytest.mark.parametrize("batch_size", [1, 7, 1000])
@pytest.mark.parametrize("split", ["train", "test"])
def test_equals_a_naive_loop(random_dataset: PreparedDataset, mask_seen: bool, batch_size: int, split: str) -> None:
    dataset, rows = random_dataset, random_dataset.rows(split)
    score = coarse_scores(dataset.num_items)
    ranks = rank_targets(score, dataset, rows, mask_seen=mask_seen, batch_size=batch_size)
    for row, rank in zip(rows, ranks, strict=True):
        scores = score(Histories.of_rows(dataset, np.array([row])))[0].numpy()
        excluded = set(dataset.seen(row).tolist()) if mask_seen else set()
        assert rank == naive_rank(scores, int(dataset.items[row]), excluded)


def test_a_target_seen_before_is_a_miss_where_seen_items_are_left_out(make) -> None:
    dataset = make([[1, 2, 3, 4, 1]], num_items=6)
    scores = torch.tensor([[9.0, 8.5, 8, 8, 8, 7, 1]])  # padding would win
    ranked = [
        rank_targets(lambda shown: scores, dataset, dataset.rows("test"), mask_seen=mask) for mask in (True, False)
    ]
    assert [ranks.tolist() for ranks in ranked] == [[7], [1]]
    assert find_seen_targets(dataset, dataset.rows("test")).tolist() == [True]


def test_equal_scores_count_against_the_target(make) -> None:
    dataset = make([[1, 2, 3, 4, 5]], num_items=9)
    ranks = rank_targets(lambda shown: torch.zeros(1, 10), dataset, dataset.rows("test"), mask_seen=False)
    assert ranks.tolist() == [9]


def test_nan_scores_are_refused(make) -> None:
    dataset = make([[1, 2, 3, 4, 5]])
    with pytest.raises(FloatingPointError, match="NaN"):
        rank_targets(lambda shown: torch.full((1, 6), torch.nan), dataset, dataset.rows("test"), mask_seen=False)


def test_a_model_is_ranked_by_its_dot_products(random_dataset: PreparedDataset) -> None:
    torch.manual_seed(0)
    model = SASRec(SASRecConfig(width=8), num_items=random_dataset.num_items).eval()
    rows = random_dataset.rows("test")
    ranks = rank_targets(model_scorer(model), random_dataset, rows, mask_seen=True, batch_size=8)
    with torch.inference_mode():
        for row, rank in zip(rows[:10], ranks, strict=False):
            history = torch.from_numpy(random_dataset.seen(row)[-5:].astype(np.int64))[None]
            scores = (model.hidden(Histories.of(history))[0, -1] @ model.item_vectors().T).numpy()
            assert rank == naive_rank(scores, int(random_dataset.items[row]), set(random_dataset.seen(row).tolist()))
