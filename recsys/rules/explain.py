"""Why a model of sequential rules, or a hybrid with them, recommends an item: because others went from these to it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from recsys.checkpoint import Checkpoint
from recsys.errors import UserError
from recsys.rules.hybrid import Hybrid
from recsys.rules.model import SequentialRules


@dataclass(frozen=True)
class Reason:
    """An item of the history and its part of the counts of the recommended item, 0 to 1; all parts add up to 1."""

    item: str
    share: float


def reasons(checkpoint: Checkpoint, history: Sequence[str], item: str) -> list[Reason]:
    """The items of a history (catalogue ids, oldest first) from which others went on to `item`, strongest first.

    Empty where nobody did: the item was then recommended by its title, its popularity, or the student of a hybrid.

    Raises:
        UserError: the model has no rules, or the catalogue has no such item.
    """
    model = checkpoint.model
    rules = model.rules if isinstance(model, Hybrid) else model
    if not isinstance(rules, SequentialRules):
        raise UserError(f"a model of kind {model.kind} has no rules to explain by; ask one of kind sequential-rules")
    index = checkpoint.catalogue.index
    if item not in index:
        raise UserError(f"the catalogue has no item {item!r}")
    known = [i for i in history if i in index][-checkpoint.max_history :]
    if not known:
        return []
    parts = rules.contributions(torch.tensor([index[i] for i in known]), index[item])
    total: dict[str, float] = {}
    for i, part in zip(known, parts.tolist(), strict=True):
        total[i] = total.get(i, 0.0) + part
    whole = sum(total.values())
    found = [Reason(i, part / whole) for i, part in total.items() if part > 0]
    return sorted(found, key=lambda reason: -reason.share)
