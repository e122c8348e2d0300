"""The coordinate search against a plain one that ranks by the loops of the formula."""

from dataclasses import replace

import numpy as np
import pytest

from recsys.data.prepared import PreparedDataset
from recsys.rules.config import RulesConfig, RulesTuningConfig
from recsys.rules.tune import tune_counts
from tests.unit.rules.conftest import naive_scores

VALUES = {
    "backward": (0.0, 0.4), "decay": (0.2, 0.6, 1.0), "distance": (0.0, 1.0), "source": (0.0, 0.8), "target": (0.0, 0.8)
}  # fmt: skip


def naive_gain(dataset: PreparedDataset, config: RulesConfig) -> float:
    gains = []
    for row in dataset.rows("valid").tolist():
        past = dataset.seen(row).tolist()
        scores = naive_scores(dataset, config, past[-dataset.max_history :])
        target = int(dataset.items[row])
        rank = sum(scores[j] >= scores[target] for j in range(1, len(scores)) if j not in past)
        gains.append(1 / np.log2(rank + 1) if scores[target] > 0 and target not in past and rank <= 10 else 0.0)
    return float(np.mean(gains))


@pytest.mark.parametrize("seed", range(4))
def test_the_search_is_the_plain_one(random_dataset, seed: int) -> None:
    dataset = random_dataset(users=14, items=18, longest=9, max_history=4, seed=seed)
    start, known = RulesConfig(window=3), dict[RulesConfig, float]()

    def gain(config: RulesConfig) -> float:
        if config not in known:
            known[config] = naive_gain(dataset, config)
        return known[config]

    best, before = start, None
    while best != before:
        before = best
        for name, values in VALUES.items():
            for value in values:
                if gain(replace(best, **{name: value})) > gain(best) + 1e-12:
                    best = replace(best, **{name: value})
    said: list[str] = []
    found = tune_counts(dataset, start, RulesTuningConfig(rounds=9, **VALUES), report=said.append)
    assert found.config == best and found.best == pytest.approx(gain(best))
    tried = {tuple(each[name] for name in VALUES): each["valid"] for each in found.tried}
    assert tried == pytest.approx({tuple(getattr(c, name) for name in VALUES): value for c, value in known.items()})
    assert f"{len(tried)} candidates" in said[-1]


def test_rounds_bound_the_search_and_without_rows_there_is_none(random_dataset) -> None:
    dataset = random_dataset(users=14, items=18, longest=9, max_history=4)
    said: list[str] = []
    tune_counts(dataset, RulesConfig(), RulesTuningConfig(rounds=1), report=said.append)
    assert len(said) == 1
    bare = replace(dataset, split_rows={**dataset.split_rows, "valid": np.zeros(0, dtype=np.int64)})
    found = tune_counts(bare, RulesConfig(window=7), RulesTuningConfig())
    assert (found.config, found.best, found.tried) == (RulesConfig(window=7), None, [])
