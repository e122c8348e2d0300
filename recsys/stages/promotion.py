"""Promotion: an alias of the model registry, by which the endpoint finds its student, moves where the gate holds.

What is promoted is copied to `students/<student>.<first 12 digits of its hash>`, so that training the student anew
changes nothing of what is served, and what was served before can be served again. What was promoted when is in
`<storage>/<name>/promotions.json`, and in tags of the versions.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from recsys import locks, storage
from recsys.errors import UserError
from recsys.evaluation.config import name_rule
from recsys.manifest import MANIFEST
from recsys.names import read_exported, read_registered
from recsys.settings import Layout, PromotionConfig, Settings
from recsys.stages.artefacts import fingerprint, require
from recsys.tracking_registry import Registry, Version

CHAMPION = "champion"


@dataclass(frozen=True)
class Outcome:
    """What became of a promotion.

    Attributes:
        done: whether the alias names the student now.
        said: one line that says so, or why not.
    """

    done: bool
    said: str


def promote(settings: Settings, student: str | None = None, *, alias: str = CHAMPION) -> Outcome:
    """Let the alias name a student's present checkpoint, if the gate holds.

    Args:
        student: None: the best of those that were evaluated.

    Raises:
        UserError: there is none that was evaluated and is unchanged since, or no registry.
    """
    with locks.hold(settings.layout.promotions, "a promotion"):
        registry = _registry(settings)
        candidate, champion = _choose(settings, registry, student), registry.find(alias)
        name = _describe(candidate)
        if champion is not None and champion.number == candidate.number:
            return Outcome(True, f"{name} is @{alias} already")
        rule = name_rule(settings.evaluation.mask_seen)
        if problem := find_objection(candidate, champion, settings.promotion, rule):
            return Outcome(False, f"{name} is not promoted: {problem}")
        _keep(settings, candidate)
        _move(settings, registry, alias, candidate, champion, "promote")
        before = f" in place of {_describe(champion)}" if champion else ""
        return Outcome(True, f"{name} is @{alias} now{before}")


def roll_back(settings: Settings, *, alias: str = CHAMPION) -> Outcome:
    """Let the alias name what it named before its present version was promoted.

    Raises:
        UserError: nothing was before, or its checkpoint is gone.
    """
    with locks.hold(settings.layout.promotions, "a promotion"):
        registry = _registry(settings)
        present = registry.find(alias)
        if present is None:
            raise UserError(f"no student is @{alias}, so there is nothing to take back")
        *earlier, last = [None, *_find_standing(read_promotions(settings), alias)]
        number = earlier[-1] if earlier and last == present.number else None
        before = next((version for version in registry.versions() if version.number == number), None)
        if before is None:
            raise UserError(f"nothing is on record that was @{alias} before {_describe(present)}")
        require(settings.layout.student(_kept_as(before)), f"checkpoint of {_describe(before)}", "promote --student")
        _move(settings, registry, alias, before, present, "rollback")
        return Outcome(True, f"{_describe(before)} is @{alias} again, in place of {_describe(present)}")


def find_student(settings: Settings) -> str:
    """The name, below `students/`, of what `serving.student` means now.

    Raises:
        UserError: it is an alias that names none.
    """
    if not settings.serving.student.startswith("@"):
        return settings.serving.student
    alias = settings.serving.student[1:]
    version = _registry(settings).find(alias)
    if version is None:
        raise UserError(
            f"no student of {settings.name} is @{alias}; run promote --alias {alias}, or name one: serving.student=NAME"
        )
    return _kept_as(version)


def find_checkpoint(settings: Settings, model: str) -> str:
    """The URI of the checkpoint that the model of an arm (`ArmConfig.model`) means now, whether or not it is there.

    Raises:
        UserError: it is a version of the model registry that there is not, or whose checkpoint was replaced since.
    """
    if (exported := read_exported(model)) is not None:
        return settings.layout.export(exported)
    registered = read_registered(f"models:/{settings.name}{model}" if model.startswith("@") else model)
    if registered is None:
        return settings.layout.model(model)
    name, alias, number = registered
    registry = Registry(settings.tracking, settings.layout.mlflow, name)
    if alias is not None:
        version = registry.find(alias)
        mend = f"run promote --alias {alias}"
    else:
        version = next((one for one in registry.versions() if one.number == number), None)
        mend = "run evaluate, which registers students"
    if version is None:
        raise UserError(f"the model registry holds no {model}; {mend}, or name another")
    if not {"student", "checkpoint"} <= version.tags.keys():
        raise UserError(f"{model} is no student that evaluate has registered; name another")
    layout = Layout(settings.layout.storage_root, name)
    for uri in (layout.student(_kept_as(version)), layout.student(version.tags["student"])):
        manifest = storage.read_manifest(uri)
        if manifest is not None and manifest.content_hash == version.tags["checkpoint"]:
            return uri
    raise UserError(
        f"the checkpoint of {model}, {_describe(version)}, has been replaced since it was evaluated; promote keeps a "
        "copy of what it promotes, so promote in time, or name another"
    )


def find_objection(candidate: Version, champion: Version | None, config: PromotionConfig, rule: str) -> str | None:
    """Why a student may not take the alias, as the end of a sentence; None where it may.

    Args:
        champion: who has the alias; without one there is nothing to be compared with.
        rule: for seen items, of `recsys.evaluation.results.RULES`.
    """
    milliseconds = candidate.measured("p95_ms")
    if config.max_ms is not None and not milliseconds <= config.max_ms:
        return f"the 95th percentile of its latency is {milliseconds:.2f} ms, promotion.max_ms {config.max_ms:g}"
    if champion is None:
        return None
    if candidate.tags["dataset"] != champion.tags["dataset"]:
        if config.across_datasets:
            return None
        return (
            f"it was measured on dataset {candidate.tags['dataset'][:12]}, {_describe(champion)} on "
            f"{champion.tags['dataset'][:12]}, so they cannot be compared (promotion.across_datasets=true promotes all "
            "the same)"
        )
    metric = f"{rule}.{config.metric}"
    ours, theirs = candidate.measured(metric), champion.measured(metric)
    if not ours >= theirs + config.margin:
        said = f"{config.metric.upper()} {ours:.4f} against {theirs:.4f} of {_describe(champion)}"
        return f"{said}, and promotion.margin is {config.margin:g}"
    return None


def read_promotions(settings: Settings) -> list[dict[str, Any]]:
    """What was promoted and rolled back, oldest first.

    Returns:
        Of each: when, what (promote or rollback), alias, version, student, checkpoint, dataset, and the version before.
    """
    uri = settings.layout.promotions
    found: list[dict[str, Any]] = storage.read_json(uri) if storage.exists(uri) else []
    return found


def _registry(settings: Settings) -> Registry:
    return Registry(settings.tracking, settings.layout.mlflow, settings.name)


def _choose(settings: Settings, registry: Registry, student: str | None) -> Version:
    """The best version of a checkpoint that is in its place and was measured on the present dataset."""
    dataset = fingerprint(settings.layout)
    rule = name_rule(settings.evaluation.mask_seen)
    found = []
    for version in registry.versions():
        name = version.tags.get("student", "")
        if version.tags.get("dataset") != dataset or name not in settings.students or student not in (None, name):
            continue
        manifest = storage.read_manifest(settings.layout.student(name))
        if manifest is not None and manifest.content_hash == version.tags["checkpoint"]:
            found.append(version)
    if not found:
        raise UserError(
            f"no evaluation of {student or 'a student'} as it is now is in the model registry; run evaluate first"
        )
    return max(found, key=lambda version: (version.measured(f"{rule}.{settings.promotion.metric}"), version.number))


def _find_standing(entries: Sequence[Mapping[str, Any]], alias: str) -> list[int]:
    """The versions that the alias named one after the other, without what was rolled back."""
    standing: list[int] = []
    for entry in entries:
        if entry["alias"] != alias:
            continue
        if entry["what"] == "rollback":
            standing.pop()
            continue
        if entry["before"] is not None and standing[-1:] != [entry["before"]]:  # moved by another hand
            standing = [entry["before"]]
        standing.append(entry["version"])
    return standing


def _kept_as(version: Version) -> str:
    return f"{version.tags['student']}.{version.tags['checkpoint'][:12]}"


def _keep(settings: Settings, version: Version) -> None:
    """Copy a student's checkpoint to where nothing replaces it."""
    layout = settings.layout
    source, uri = layout.student(version.tags["student"]), layout.student(_kept_as(version))
    kept = storage.read_manifest(uri)
    if kept is not None and kept.content_hash == version.tags["checkpoint"]:
        return
    manifest = require(source, f"checkpoint of {version.tags['student']}", "distill")
    folder = storage.local_copy(source, "checkpoint")
    with storage.new_artifact(uri, key=manifest.key, attributes=manifest.attributes) as work:
        shutil.copytree(folder, work, dirs_exist_ok=True, ignore=shutil.ignore_patterns(MANIFEST))


def _move(
    settings: Settings, registry: Registry, alias: str, version: Version, before: Version | None, what: str
) -> None:
    when = datetime.now(UTC).isoformat(timespec="seconds")
    registry.set_alias(alias, version.number, {f"{what}.{alias}": when})
    entry = {
        "when": when,
        "what": what,
        "alias": alias,
        "version": version.number,
        **{name: version.tags[name] for name in ("student", "checkpoint", "dataset")},
        "before": before.number if before else None,
    }
    storage.write_json(settings.layout.promotions, [*read_promotions(settings), entry])


def _describe(version: Version) -> str:
    return f"version {version.number} ({version.tags['student']})"
