"""What is chosen on validation, and what a fitted memory says of it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from recsys.evaluation.metrics import gains
from recsys.evaluation.ranking import model_scorer, rank_targets
from recsys.rules.config import RULES, RULES_WITH_TITLES, RulesConfig, RulesTuningConfig
from recsys.rules.fit import fit_rules
from recsys.rules.model import SequentialRules
from tests.unit.rules.test_model import text_of

WEIGHTS = (0.5, 2.0, 4.0)
ONE = RulesTuningConfig(
    decay=(0.6,), backward=(0.0, 0.3), distance=(0.5,), source=(0.4,), target=(0.2,), title_weight=WEIGHTS
)


@pytest.mark.parametrize("seed", range(3))
def test_the_weight_of_titles_is_the_best_on_validation(random_dataset, seed: int, tmp_path: Path) -> None:
    dataset = random_dataset(users=30, longest=12, seed=seed)
    text, rows = text_of(dataset), dataset.rows("valid")
    found = fit_rules(dataset, RulesConfig(title_weight=1.0), text=text, tuning=ONE, report=lambda _: None)

    def gain(model: SequentialRules) -> float:
        return float(gains(rank_targets(model_scorer(model), dataset, rows, mask_seen=True), 10).mean())

    chosen = replace(found[RULES].model.config, rules=0)
    every = [
        gain(fit_rules(dataset, replace(chosen, title_weight=weight), text=text)[RULES_WITH_TITLES].model)
        for weight in WEIGHTS
    ]
    titled = found[RULES_WITH_TITLES]
    assert titled.model.config.title_weight == WEIGHTS[int(np.argmax(every))]
    assert titled.valid == pytest.approx(max(every), abs=1e-4) and chosen.title_weight == 0
    assert [each["valid"] for each in titled.tried[-3:]] == pytest.approx(every, abs=1e-4)
    assert titled.tried[:-3] == found[RULES].tried and len(found[RULES].tried) == 2
    titled.save(str(tmp_path / "rules"), dataset)
    assert json.loads((tmp_path / "rules" / "config.json").read_text())["search"] == titled.tried


def test_without_a_search_the_constants_stay_and_titles_get_a_weight(random_dataset) -> None:
    dataset = random_dataset()
    found = fit_rules(dataset, RulesConfig(window=3, decay=0.7), text=text_of(dataset))
    assert {name: each.model.config.title_weight for name, each in found.items()} == {RULES: 0, RULES_WITH_TITLES: 2.0}
    assert all(each.valid is None and not each.tried for each in found.values())
    assert all((each.model.config.window, each.model.config.decay) == (3, 0.7) for each in found.values())
