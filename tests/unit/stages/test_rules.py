"""The stage that fits the rules, with the item language model away."""

import dataclasses
import importlib.util
from pathlib import Path

import pytest

from recsys import storage
from recsys.errors import UserError
from recsys.rules.config import RULES, RULES_WITH_TITLES
from recsys.settings import Layout, RulesSettings
from recsys.stages import rules


@pytest.fixture(autouse=True)
def no_minilm(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if "minilm" in name else found(name, *rest)
    )


def test_a_missing_language_model_is_said_and_nothing_written(random_dataset, tmp_path: Path) -> None:
    layout = Layout(str(tmp_path), "shop")
    random_dataset().write(layout.dataset)
    with pytest.raises(UserError, match=r"rules do without by rules\.titles=null"):
        rules.fit(RulesSettings(tuning=None), layout, "key")
    assert storage.read_manifest(layout.rules(RULES)) is None
    assert list(rules.fit(RulesSettings(tuning=None, titles=None), layout, "key")) == [RULES]
    assert rules.best(layout) == layout.rules(RULES)


def test_a_catalogue_without_titles_needs_no_language_model(random_dataset, tmp_path: Path) -> None:
    layout, dataset = Layout(str(tmp_path), "shop"), random_dataset()
    bare = dataclasses.replace(dataset.catalogue, titles=[""] * len(dataset.catalogue.titles))
    dataclasses.replace(dataset, catalogue=bare, titles_hash="").write(layout.dataset)
    assert list(rules.fit(RulesSettings(tuning=None), layout, "key")) == [RULES]
    assert storage.read_manifest(layout.rules(RULES_WITH_TITLES)) is None
