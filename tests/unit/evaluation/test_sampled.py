"""`sampled_999` against a loop over rows and negatives."""

import numpy as np
import pytest
import torch

from recsys.data.prepared import PreparedDataset
from recsys.evaluation.config import SampledConfig
from recsys.evaluation.metrics import metrics_from_ranks
from recsys.evaluation.sampled import draw_negatives, measure_sampled, rank_sampled
from recsys.histories import Histories


def test_negatives_are_fixed_and_never_seen(random_dataset: PreparedDataset) -> None:
    dataset = random_dataset
    config = SampledConfig(negatives=5)
    for row in dataset.rows("test"):
        drawn = draw_negatives(dataset, row, config)
        assert len(set(drawn.tolist())) == 5 and drawn.min() >= 1 and drawn.max() <= 25
        assert not set(drawn.tolist()) & {*dataset.seen(row).tolist(), int(dataset.items[row])}
        assert drawn.tolist() == draw_negatives(dataset, row, config).tolist()
    others = [draw_negatives(dataset, row, SampledConfig(negatives=5, seed=1)).tolist() for row in dataset.rows("test")]
    assert others != [draw_negatives(dataset, row, config).tolist() for row in dataset.rows("test")]


def test_rows_that_are_alike_have_negatives_of_their_own(make) -> None:
    dataset = make([[1, 2, 3, 4], [1, 2, 3, 4]], num_items=100)
    first, second = (draw_negatives(dataset, row, SampledConfig(negatives=5)).tolist() for row in (3, 7))
    assert first != second


def test_a_small_catalogue_gives_all_it_has(random_dataset: PreparedDataset) -> None:
    dataset = random_dataset
    for row in dataset.rows("test"):
        left = set(range(1, 26)) - {*dataset.seen(row).tolist(), int(dataset.items[row])}
        assert set(draw_negatives(dataset, row, SampledConfig()).tolist()) == left


def test_draws_are_uniform(random_dataset: PreparedDataset) -> None:
    dataset = random_dataset
    row = int(dataset.rows("test")[0])
    counts = np.zeros(26)
    for seed in range(2000):
        counts[draw_negatives(dataset, row, SampledConfig(negatives=3, seed=seed))] += 1
    free = counts[counts > 0]
    assert abs(free - free.mean()).max() < 5 * np.sqrt(free.mean())


@pytest.mark.parametrize("negatives", [6, 999])
def test_ranks_are_those_of_a_loop(random_dataset: PreparedDataset, negatives: int) -> None:
    dataset = random_dataset
    config, rows = SampledConfig(negatives=negatives), dataset.rows("test")
    table = torch.randint(0, 6, (26,), generator=torch.Generator().manual_seed(0)).float()  # with many ties
    expected = []
    for row in rows:
        rank = 1
        for item in draw_negatives(dataset, row, config):
            rank += bool(table[item] >= table[dataset.items[row]])
        expected.append(rank)

    def score(histories: Histories) -> torch.Tensor:
        return table.expand(len(histories), -1)

    ranks = rank_sampled(score, dataset, rows, config, batch_size=5)
    assert ranks.tolist() == expected
    metrics = measure_sampled(score, dataset, rows, config)
    assert metrics == {name: metrics_from_ranks(ranks)[name] for name in ("hr@1", "hr@5", "ndcg@5", "mrr")}
    everything_ties = rank_sampled(lambda histories: torch.zeros(len(histories), 26), dataset, rows, config)
    assert everything_ties.tolist() == [1 + len(draw_negatives(dataset, row, config)) for row in rows]
