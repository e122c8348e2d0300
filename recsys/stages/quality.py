"""How well the arms of an application recommend, as far as it was measured of the checkpoints that they serve."""

import math
from collections.abc import Mapping

from recsys import storage
from recsys.errors import UserError
from recsys.evaluation.config import name_rule
from recsys.evaluation.ladder import LADDER
from recsys.names import read_exported, read_registered
from recsys.serving.assignment import Arm
from recsys.settings import Settings
from recsys.stages.artefacts import fingerprint
from recsys.tracking_registry import Registry


def find_quality(settings: Settings, checkpoints: Mapping[Arm, str | None]) -> dict[Arm, float]:
    """NDCG@10 on the test rows of the project's dataset, by arm.

    It is that of the project's ladder; of a checkpoint that is not in it, such as an older version or one of another
    project, what the model registry has on record. Recent popularity stands for the null arm.

    Args:
        checkpoints: hash of what each arm serves; None without a model.
    """
    dataset = fingerprint(settings.layout)
    rule, found = _read_ladder(settings, dataset)
    quality: dict[Arm, float] = {}
    for arm, served in checkpoints.items():
        checkpoint = _find_exported(settings, arm, served)
        known = found.get("recent-popularity" if arm == "null" else str(checkpoint))
        if known is None and checkpoint is not None:
            known = _ask_registry(settings, arm, {"checkpoint": checkpoint, "dataset": dataset}, rule)
        if known is not None:
            quality[arm] = known
    return quality


def _read_ladder(settings: Settings, dataset: str) -> tuple[str, dict[str, float]]:
    """The rule for seen items, and NDCG@10 by the hash of a checkpoint, or by name where there is none."""
    ladder = storage.read_json_if_whole(storage.join(settings.layout.results, f"{LADDER}.json"))
    if not isinstance(ladder, dict) or ladder["dataset"]["fingerprint"] != dataset:
        return name_rule(settings.evaluation.mask_seen), {}
    rule = name_rule(ladder["mask_seen"])
    return rule, {row["checkpoint_hash"] or row["name"]: row["metrics"][rule]["ndcg@10"] for row in ladder["rows"]}


def _find_exported(settings: Settings, arm: Arm, served: str | None) -> str | None:
    """Of an export, the checkpoint that it was made of, with which it was compared; of anything else, itself."""
    config = settings.serving.models.get(arm)
    name = read_exported(config.model) if config is not None else None
    manifest = None if name is None else storage.read_manifest(settings.layout.export(name))
    if manifest is None or manifest.content_hash != served:
        return served
    return str(manifest.attributes["checkpoint"])


def _ask_registry(settings: Settings, arm: Arm, tags: Mapping[str, str], rule: str) -> float | None:
    served = settings.serving.models.get(arm)
    registered = read_registered(served.model) if served is not None else None
    try:
        registry = Registry(settings.tracking, settings.layout.mlflow, registered[0] if registered else settings.name)
        for version in registry.versions():
            measured = version.measured(f"{rule}.ndcg@10")
            if tags.items() <= version.tags.items() and not math.isnan(measured):
                return measured
    except UserError:  # there is none, or it does not answer; what was timed is told all the same
        return None
    return None
