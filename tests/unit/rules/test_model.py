"""The rules as a recommender: scores, checkpoint, answers and reasons."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from recsys.checkpoint import load_checkpoint
from recsys.data.prepared import PreparedDataset
from recsys.decoders.item_encoder import TextEmbeddings
from recsys.errors import UserError
from recsys.evaluation.metrics import gains
from recsys.evaluation.ranking import model_scorer, rank_targets
from recsys.histories import Histories
from recsys.rules import model as module
from recsys.rules.config import RULES, RULES_WITH_TITLES, RulesConfig, RulesTuningConfig
from recsys.rules.counts import Counts
from recsys.rules.explain import reasons
from recsys.rules.fit import fit_rules
from recsys.serving.recommender import Recommender
from recsys.students.config import GRU4RecConfig
from recsys.students.gru4rec import GRU4Rec
from tests.unit.rules.conftest import naive_scores


def text_of(dataset: PreparedDataset, width: int = 6) -> TextEmbeddings:
    generator = torch.Generator().manual_seed(0)
    vectors = F.normalize(torch.randn(dataset.num_items + 1, width, generator=generator) + 1, dim=1)
    missing = torch.zeros(len(vectors), dtype=torch.bool)
    missing[3] = True
    vectors[0] = vectors[3] = 0
    return TextEmbeddings(vectors, missing)


def test_scores_are_the_formula(random_dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, config = random_dataset(items=20, longest=12), RulesConfig(title_weight=1.5)
    text = text_of(dataset)
    fitted = fit_rules(dataset, config, text=text)
    monkeypatch.setattr(module, "RULES_AT_ONCE", 50)  # batches in several parts
    rows = dataset.rows("test")
    shown = Histories.of_rows(dataset, rows)
    alone, titled = (model_scorer(fitted[name].model)(shown) for name in (RULES, RULES_WITH_TITLES))
    mean = text.vectors[text.known].mean(dim=0)
    z = F.normalize(text.vectors - mean, dim=1) * text.known[:, None]
    for place, row in enumerate(rows):
        history = shown.items[place, : shown.lengths[place]].tolist()
        counts = naive_scores(dataset, config, history)
        expected = np.log(0.9 * counts / max(counts.sum(), 1e-300) + 0.1 / dataset.num_items)
        assert alone[place, 1:].numpy() == pytest.approx(expected[1:], abs=2e-3), row
        direction = sum(z[i] * 0.6**age for age, i in enumerate(reversed(history)))
        cosine = z @ F.normalize(direction, dim=0)
        torch.testing.assert_close(titled[place] - alone[place], 1.5 * cosine, atol=1e-5, rtol=1e-5)


def test_of_items_without_a_rule_the_popular_one_is_first(random_dataset) -> None:
    dataset = random_dataset(items=120, longest=12)
    model = fit_rules(dataset)[RULES].model
    shown = Histories.of(torch.tensor([[5]]))
    scores, without = model_scorer(model)(shown)[0], model.counts(shown)[0] == 0
    without[0] = False
    counts = torch.from_numpy(Counts.fit(dataset, RulesConfig()).frequency)[without]
    order = scores[without].argsort(descending=True)
    assert without.sum() > 10 and (counts[order].diff() <= 0).all()
    assert torch.logsumexp(scores[1:], 0).abs() < 1e-5, "a probability"


def test_a_checkpoint_recommends_alike_and_keeps_the_search(random_dataset, tmp_path: Path) -> None:
    dataset = random_dataset(items=30)
    tuning = RulesTuningConfig(rounds=1, decay=(0.5, 0.9), source=(0.0, 0.5), title_weight=(1.0, 3.0))
    for name, fitted in fit_rules(dataset, text=text_of(dataset), tuning=tuning, report=lambda line: None).items():
        fitted.save(str(tmp_path / name), dataset)
        loaded = load_checkpoint(tmp_path / name)
        assert loaded.model.config == fitted.model.config
        assert loaded.info["search"] == fitted.tried and loaded.info["training"]["valid"] == fitted.valid
        if name == RULES_WITH_TITLES:
            ranks = rank_targets(model_scorer(fitted.model), dataset, dataset.rows("valid"), mask_seen=True)
            assert fitted.valid == pytest.approx(gains(ranks, 10).mean(), abs=1e-4)
        shown = Histories.of_rows(dataset, dataset.rows("test"))
        torch.testing.assert_close(model_scorer(loaded.model)(shown), model_scorer(fitted.model)(shown))
        answer = Recommender(loaded).rank([["i4", "unheard-of", "i9"]], k=5)[0]
        assert len(answer.items) == 5 and not {"i4", "i9"} & set(answer.items)
        assert answer.scores == sorted(answer.scores, reverse=True)


def test_titles_are_left_out_where_none_is_known(random_dataset) -> None:
    dataset = random_dataset()
    nothing = TextEmbeddings(torch.zeros(61, 4), torch.tensor([False] + [True] * 60))
    assert list(fit_rules(dataset, text=nothing)) == [RULES]


def test_reasons_are_the_items_others_went_on_from(random_dataset, tmp_path: Path) -> None:
    dataset = random_dataset(items=15, longest=20)
    fit_rules(dataset)[RULES].save(str(tmp_path / "rules"), dataset)
    checkpoint = load_checkpoint(tmp_path / "rules")
    history = ["i2", "i7", "i2", "i11"]
    found = reasons(checkpoint, history, "i5")
    assert sum(reason.share for reason in found) == pytest.approx(1)
    parts = {
        name: naive_scores(dataset, RulesConfig(), [int(i[1:]) if i == name else 0 for i in history])[5]
        for name in set(history)
    }
    assert {reason.item: reason.share for reason in found} == pytest.approx(
        {name: part / sum(parts.values()) for name, part in parts.items() if part}
    )
    assert reasons(checkpoint, ["nothing known"], "i5") == []
    longer = ["i9", *history, *history]
    assert reasons(checkpoint, longer, "i5") == reasons(checkpoint, longer[1:], "i5"), "the latest 8 are shown"
    with pytest.raises(UserError, match="no item 'i99'"):
        reasons(checkpoint, history, "i99")
    checkpoint.__dict__["model"] = GRU4Rec(GRU4RecConfig(width=4), num_items=15)
    with pytest.raises(UserError, match="kind gru4rec has no rules"):
        reasons(checkpoint, history, "i5")
