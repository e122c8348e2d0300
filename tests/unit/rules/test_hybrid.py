"""A hybrid: the sum of its terms, weights from validation, one checkpoint that is served like any other."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from recsys.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from recsys.data.prepared import PreparedDataset
from recsys.errors import UserError
from recsys.evaluation.metrics import gains
from recsys.evaluation.ranking import model_scorer, rank_targets
from recsys.histories import Histories
from recsys.rules.config import RULES, RULES_WITH_TITLES, HybridConfig, RulesConfig, RulesTuningConfig
from recsys.rules.explain import reasons
from recsys.rules.fit import fit_rules
from recsys.rules.hybrid import Hybrid, make_hybrid
from recsys.rules.weights import weighted_gains
from recsys.serving.recommender import Recommender
from recsys.students.config import GRU4RecConfig, HSTUConfig, SASRecConfig
from recsys.students.gru4rec import GRU4Rec
from recsys.students.hstu import HSTU
from recsys.students.sasrec import SASRec
from tests.unit.rules.test_model import text_of

TUNING = RulesTuningConfig(student_rules=(0.0, 0.7, 1.5), student_titles=(0.0, 2.0), student_repeats=(0.0, -3.0))
CONFIG = HybridConfig(kind="hybrid", student="any")


@pytest.fixture
def dataset(random_dataset) -> PreparedDataset:
    return random_dataset(users=30, items=60, longest=12)


@pytest.fixture(params=["sasrec", "gru4rec", "hstu"])
def student(request, dataset: PreparedDataset, tmp_path: Path) -> Checkpoint:
    torch.manual_seed(0)
    model = {
        "sasrec": lambda: SASRec(SASRecConfig(width=8, blocks=1, heads=1), num_items=dataset.num_items),
        "gru4rec": lambda: GRU4Rec(GRU4RecConfig(width=8), num_items=dataset.num_items),
        "hstu": lambda: HSTU(HSTUConfig(width=8, blocks=1), num_items=dataset.num_items),
    }[request.param]()
    save_checkpoint(str(tmp_path / "student"), model, dataset)
    return load_checkpoint(tmp_path / "student")


def memory(dataset: PreparedDataset, folder: Path, name: str = RULES_WITH_TITLES) -> Checkpoint:
    fit_rules(dataset, RulesConfig(title_weight=1.0), text=text_of(dataset))[name].save(str(folder / name), dataset)
    return load_checkpoint(folder / name)


def test_scores_are_the_weighted_sum_of_three_terms(student, dataset, tmp_path: Path) -> None:
    rules = memory(dataset, tmp_path)
    hybrid = Hybrid.of(student.model, rules.model, rules_weight=1.2, title_weight=4.0)
    shown = Histories.of_rows(dataset, dataset.rows("test"))
    logits = model_scorer(student.model)(shown)[:, 1:]
    share = rules.model.log_share(shown)[:, 1:]
    cosine = (model_scorer(rules.model)(shown) - rules.model.log_share(shown))[:, 1:]
    expected = logits.log_softmax(dim=1) + 1.2 * share + 4.0 * cosine
    torch.testing.assert_close(model_scorer(hybrid)(shown)[:, 1:], expected, atol=1e-4, rtol=1e-5)


def test_an_item_of_the_history_gets_its_weight_once(student, dataset, tmp_path: Path) -> None:
    rules = memory(dataset, tmp_path)
    plain = Hybrid.of(student.model, rules.model, rules_weight=1.2, title_weight=4.0)
    hybrid = Hybrid.of(student.model, rules.model, rules_weight=1.2, title_weight=4.0, repeat_weight=-3.0)
    shown = Histories.of(torch.tensor([[4, 9, 4, 0], [7, 0, 0, 0]]), torch.zeros(2, 4, dtype=torch.int64))
    expected = torch.zeros(2, dataset.num_items + 1)
    for row, items in enumerate(([4, 9], [7])):
        expected[row, items] = -3.0
    changed = model_scorer(hybrid)(shown) - model_scorer(plain)(shown)
    torch.testing.assert_close(changed[:, 1:], expected[:, 1:], atol=1e-5, rtol=0)


@pytest.mark.parametrize("titles", [True, False])
@pytest.mark.parametrize("mask_seen", [True, False])
def test_one_checkpoint_with_the_best_of_the_weights_is_served(
    student, dataset, tmp_path: Path, titles: bool, mask_seen: bool
) -> None:
    rules = memory(dataset, tmp_path)
    config = dataclasses.replace(CONFIG, titles=titles, mask_seen=mask_seen)
    found = make_hybrid(config, student, dataset, rules=rules, tuning=TUNING)
    tried, valid = found.training["weights"], found.training["valid"]
    assert len(tried) == (6 if titles else 3) * (1 if mask_seen else 2)
    assert valid["ndcg@10"] == max(each["valid"] for each in tried) >= valid["alone"] == tried[0]["valid"]
    assert found.metrics["valid"] == valid["ndcg@10"] and f"{valid['ndcg@10']:.4f}" in found.line
    for each in tried:  # what the search says is what the full ranking of the model with these weights gives
        weights = {name: each[name] for name in ("rules_weight", "title_weight", "repeat_weight")}
        model = Hybrid.of(student.model, rules.model, **weights)
        ranks = rank_targets(model_scorer(model), dataset, dataset.rows("valid"), mask_seen=mask_seen)
        assert each["valid"] == pytest.approx(gains(ranks, 10).mean(), abs=1e-4)

    save_checkpoint(str(tmp_path / "hybrid"), found.model, dataset)
    loaded = load_checkpoint(tmp_path / "hybrid")
    assert loaded.model.config == found.model.config
    assert loaded.model.rules.config.title_width == (6 if found.model.config.title_weight else 0)
    shown = Histories.of_rows(dataset, dataset.rows("test"))
    torch.testing.assert_close(model_scorer(loaded.model)(shown), model_scorer(found.model)(shown))
    answer = Recommender(loaded).rank([["i4", "i9"]], k=5)[0]
    assert len(answer.items) == 5 and answer.scores == sorted(answer.scores, reverse=True)
    whole = reasons(memory(dataset, tmp_path, RULES), ["i4", "i9"], answer.items[0])
    assert reasons(loaded, ["i4", "i9"], answer.items[0]) == whole


def test_where_the_terms_harm_the_student_stays_alone(student, dataset, tmp_path: Path) -> None:
    """Rules of which every one leads elsewhere than to a target of validation."""
    rules = memory(dataset, tmp_path, RULES)
    rows = dataset.rows("valid")
    student.model.scores = lambda items, *rest: torch.nn.functional.one_hot(  # knows the answers
        torch.from_numpy(dataset.targets(rows).astype(np.int64)), dataset.num_items + 1
    ).float()
    tuning = dataclasses.replace(TUNING, student_rules=(0.0, 50.0))
    found = make_hybrid(CONFIG, student, dataset, rules=rules, tuning=tuning)
    assert (found.model.config.rules_weight, found.model.config.title_weight) == (0.0, 0.0)
    assert found.training["valid"]["ndcg@10"] == found.training["valid"]["alone"]


def test_a_target_of_the_past_counts_as_a_miss(dataset) -> None:
    rows = dataset.rows("valid")
    which, seen = dataset.past(rows)
    again = np.isin(np.arange(len(rows)), which[seen == dataset.targets(rows)[which]])
    assert again.any() and not again.all()

    def terms(_: Histories) -> list[torch.Tensor]:
        return [torch.nn.functional.one_hot(torch.from_numpy(dataset.targets(rows)).long(), 61).float()]

    assert weighted_gains(terms, dataset, rows, [()]) == [pytest.approx((~again).mean())]


def test_what_does_not_fit_is_said(student, dataset, random_dataset, tmp_path: Path) -> None:
    rules = memory(dataset, tmp_path)
    hybrid = Hybrid.of(student.model, rules.model, rules_weight=1.0, title_weight=1.0)
    with pytest.raises(UserError, match="not of one of kind hybrid"):
        Hybrid.of(hybrid, rules.model, rules_weight=1.0, title_weight=1.0)
    with pytest.raises(UserError, match="the rules of a hybrid was trained on dataset"):
        other = random_dataset(users=9, items=60)
        make_hybrid(CONFIG, student, dataset, rules=memory(other, tmp_path), tuning=TUNING)
    bare = dataclasses.replace(dataset, split_rows={**dataset.split_rows, "valid": np.zeros(0, dtype=np.int64)})
    with pytest.raises(UserError, match="there are none"):
        make_hybrid(CONFIG, student, bare, rules=memory(dataset, tmp_path), tuning=TUNING)
