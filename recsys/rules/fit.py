"""Fitting the rules: constants from validation, then counts; with titles, the weight of their cosine as well.

Legend: N items, W width of the title vectors.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from recsys.checkpoint import save_checkpoint
from recsys.config import to_dict
from recsys.data.prepared import PreparedDataset
from recsys.decoders.config import ItemEncoderConfig
from recsys.decoders.item_encoder import TextEmbeddings
from recsys.histories import Histories
from recsys.rules.config import RULES, RULES_WITH_TITLES, RulesConfig, RulesTuningConfig
from recsys.rules.counts import Counts
from recsys.rules.model import SequentialRules, centre
from recsys.rules.tune import tune_counts
from recsys.rules.weights import weighted_gains


@dataclass(frozen=True)
class Fitted:
    """A fitted memory.

    Attributes:
        valid: NDCG@10 on the validation rows that its constants were chosen on, None where nothing was chosen.
        tried: the candidates and what they reached.
    """

    model: SequentialRules
    valid: float | None
    tried: list[dict[str, Any]]

    def save(
        self, uri: str, dataset: PreparedDataset, *, key: str = "", titles: ItemEncoderConfig | None = None
    ) -> None:
        """Write its checkpoint; `config.json` keeps the search, and what read the titles."""
        training = {"valid": self.valid, "candidates": len(self.tried)}
        settings = {"model": to_dict(self.model.config)}
        info = {"training": training, "settings": settings, "search": self.tried}
        if titles is not None and self.model.config.title_width:
            info["titles"] = to_dict(titles)
        save_checkpoint(uri, self.model, dataset, key=key, info=info)


def fit_rules(
    dataset: PreparedDataset,
    config: RulesConfig | None = None,
    *,
    text: TextEmbeddings | None = None,
    tuning: RulesTuningConfig | None = None,
    report: Callable[[str], None] = print,
) -> dict[str, Fitted]:
    """The rules by their counts alone (`RULES`) and, where `text` is given and an item has one, with titles
    (`RULES_WITH_TITLES`).

    Args:
        config: the constants, or where the search begins.
        tuning: choose them on validation; None takes them as they are.
    """
    config = config or RulesConfig()
    valid, tried = None, []
    if tuning is not None:
        tuned = tune_counts(dataset, config, tuning, report=report)
        config, valid, tried = tuned.config, tuned.best, tuned.tried
    counts = Counts.fit(dataset, config)
    rules, frequency = counts.rules(), counts.frequency
    del counts  # of a large log they are gigabytes
    alone = SequentialRules.of(replace(config, title_weight=0), rules, frequency, None)
    found = {RULES: Fitted(alone, valid, tried)}
    if text is None or not bool(text.known.any()):
        return found
    vectors = centre(text.vectors, text.known)
    if tuning is not None:
        config, valid, tried = _tune_titles(dataset, alone, config, vectors, tuning)
        if valid is not None:
            report(f"sequential rules: with titles, weight {config.title_weight:g}, {valid:.4f}")
    elif not config.title_weight:
        config = replace(config, title_weight=2.0)
    found[RULES_WITH_TITLES] = Fitted(
        SequentialRules.of(config, rules, frequency, vectors), valid, found[RULES].tried + tried
    )
    return found


def _tune_titles(
    dataset: PreparedDataset, alone: SequentialRules, config: RulesConfig, vectors: Tensor, tuning: RulesTuningConfig
) -> tuple[RulesConfig, float | None, list[dict[str, Any]]]:
    rows = dataset.sample("valid", tuning.rows, seed=0)
    if not len(rows):
        return replace(config, title_weight=2.0), None, []

    def terms(histories: Histories) -> tuple[Tensor, Tensor]:
        return alone.log_share(histories), alone.query(histories, vectors) @ vectors.T

    reached = weighted_gains(terms, dataset, rows, [(weight,) for weight in tuning.title_weight])
    best = max(range(len(reached)), key=reached.__getitem__)
    tried = [{"title_weight": w, "valid": gain} for w, gain in zip(tuning.title_weight, reached, strict=True)]
    return replace(config, title_weight=tuning.title_weight[best]), reached[best], tried
