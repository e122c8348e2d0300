import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recsys.data.prepared import PreparedDataset
from recsys.errors import UserError
from recsys.evaluation.metrics import metrics_from_ranks
from recsys.evaluation.ranking import rank_targets
from recsys.evaluation.results import (
    Ranks,
    Result,
    evaluate,
    is_current,
    read_ranks,
    read_result,
    write_result,
)

FACTS: dict[str, Any] = {
    "name": "by-index",
    "role": "baseline",
    "kind": "by-index",
    "key": "k1",
    "seed": None,
    "checkpoint_hash": None,
    "parameters": {"trainable": 0, "served": 1},
    "training": {},
}


def by_index(dataset: PreparedDataset):
    return lambda histories: torch.arange(dataset.num_items + 1).float().expand(len(histories), -1)


@pytest.fixture
def evaluated(random_dataset: PreparedDataset) -> tuple[Result, Ranks]:
    return evaluate(by_index(random_dataset), random_dataset, "test", batch_size=16, **FACTS)


def test_says_what_was_measured(random_dataset: PreparedDataset, evaluated: tuple[Result, Ranks]) -> None:
    result, ranks = evaluated
    assert result.rows == 40 and result.split == "test" and result.protocol == "leave_one_out"
    assert result.fingerprint == random_dataset.fingerprint
    assert "torch" in result.versions and result.hardware["cores"] >= 1
    for rule, mask in (("masked", True), ("unmasked", False)):
        rows = random_dataset.rows("test")
        expected = rank_targets(by_index(random_dataset), random_dataset, rows, mask_seen=mask)
        assert np.array_equal(ranks.by_rule[rule], expected)
        assert result.metrics[rule] == metrics_from_ranks(expected)
    again = [random_dataset.items[row] in random_dataset.seen(row) for row in random_dataset.rows("test")]
    assert any(again) and result.seen_targets == pytest.approx(np.mean(again))


def test_round_trip(evaluated: tuple[Result, Ranks], tmp_path: Path) -> None:
    result, ranks = evaluated
    written = write_result(str(tmp_path), result, ranks)
    read = read_result(str(tmp_path), "by-index")
    assert read == written == dataclasses.replace(result, ranks_sha256=written.ranks_sha256)
    again = read_ranks(str(tmp_path), read)
    assert np.array_equal(again.rows, ranks.rows)
    assert all(np.array_equal(again.by_rule[rule], ranks.by_rule[rule]) for rule in ranks.by_rule)
    assert is_current(str(tmp_path), "by-index", "k1")
    assert not is_current(str(tmp_path), "by-index", "k2")
    assert not is_current(str(tmp_path), "other", "k1")


def test_ranks_of_another_result_are_refused(evaluated: tuple[Result, Ranks], tmp_path: Path) -> None:
    result, ranks = evaluated
    written = write_result(str(tmp_path), result, ranks)
    file = tmp_path / "by-index.ranks.parquet"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"does not belong to by-index\.json"):
        read_ranks(str(tmp_path), written)
    assert not is_current(str(tmp_path), "by-index", "k1"), "it is evaluated again"
    file.unlink()
    with pytest.raises(UserError, match=r"is missing; run evaluate again"):
        read_ranks(str(tmp_path), written)
    assert not is_current(str(tmp_path), "by-index", "k1")


@pytest.mark.parametrize(
    "text", ["", '{"name": "by-in', "[]", json.dumps({"name": "by-index", "of": "another version"})]
)
def test_a_damaged_result_is_made_again(tmp_path: Path, text: str) -> None:
    (tmp_path / "by-index.json").write_text(text)
    assert read_result(str(tmp_path), "by-index") is None
    assert not is_current(str(tmp_path), "by-index", "k1")


def test_nothing_to_evaluate_is_said(random_dataset: PreparedDataset) -> None:
    empty = {**random_dataset.split_rows, "test": np.empty(0, dtype=np.int64)}
    dataset = dataclasses.replace(random_dataset, split_rows=empty)
    with pytest.raises(UserError, match="has no test rows"):
        evaluate(by_index(dataset), dataset, "test", batch_size=16, **FACTS)


def test_nan_scores_name_the_model(random_dataset: PreparedDataset) -> None:
    with pytest.raises(UserError, match="by-index cannot be evaluated: the model gives NaN scores; train it again"):
        evaluate(lambda shown: torch.full((len(shown), 26), torch.nan), random_dataset, "test", batch_size=16, **FACTS)
