"""The gate, what is promoted and rolled back, and who is served, with MLflow's registry in a real SQLite store."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ray_jobs.serving import application
from recsys import storage
from recsys.checkpoint import save_checkpoint
from recsys.config import from_dict
from recsys.data.prepared import PreparedDataset
from recsys.errors import UserError
from recsys.settings import PromotionConfig, Settings
from recsys.stages import evaluation, promotion
from recsys.stages.executor import InProcess
from recsys.students.config import SASRecConfig
from recsys.students.sasrec import SASRec
from recsys.tracking_registry import Registry, Version

QUICK = {"bootstrap_samples": 100, "latency_requests": 3}


def version(number: int, ndcg: float = 0.1, *, ms: float = 1.0, dataset: str = "d" * 64, student: str = "s") -> Version:
    tags = {"student": student, "dataset": dataset, "masked.ndcg_at_10": str(ndcg), "p95_ms": str(ms)}
    return Version(number, {**tags, "checkpoint": f"{number}" * 64})


@pytest.mark.parametrize(
    ("candidate", "champion", "config", "objection"),
    [
        (version(2, 0.1), None, {}, None),
        (version(2, 0.1), version(1, 0.1), {}, None),
        (
            version(2, 0.0999),
            version(1, 0.1),
            {},
            "NDCG@10 0.0999 against 0.1000 of version 1 (s), and promotion.margin",
        ),
        (version(2, 0.0999), version(1, 0.1), {"margin": -0.001}, None),
        (version(2, 0.104), version(1, 0.1), {"margin": 0.005}, "margin is 0.005"),
        (version(2, 0.2, ms=3.456), None, {"max_ms": 3}, "latency is 3.46 ms, promotion.max_ms 3"),
        (version(2, 0.2, ms=2.9), None, {"max_ms": 3}, None),
        (version(2, 0.2, ms=float("nan")), None, {"max_ms": 3}, "nan ms"),
        (version(2, float("nan")), version(1, 0.1), {}, "NDCG@10 nan"),
        (version(2, 0.2), version(1, dataset="e" * 64), {}, "dataset dddddddddddd, version 1 (s) on eeeeeeeeeeee"),
        (version(2, 0.2), version(1, 0.3, dataset="e" * 64), {"across_datasets": True}, None),
    ],
)
def test_the_gate(candidate: Version, champion: Version | None, config: dict[str, Any], objection: str | None) -> None:
    said = promotion.find_objection(candidate, champion, from_dict(PromotionConfig, config), "masked")
    assert said is None if objection is None else said is not None and objection in said


def test_what_was_rolled_back_is_forgotten_and_so_is_what_another_hand_moved() -> None:
    def entry(what: str, version: int, before: int | None, alias: str = "champion") -> dict[str, Any]:
        return {"what": what, "alias": alias, "version": version, "before": before}

    first = [
        entry("promote", 1, None),
        entry("promote", 2, 1),
        entry("promote", 1, 2),
        entry("promote", 9, None, "next"),
    ]
    assert promotion._find_standing(first, "champion") == [1, 2, 1]
    back = [*first, entry("rollback", 2, 1), entry("rollback", 1, 2)]
    assert promotion._find_standing(back, "champion") == [1] and promotion._find_standing(back, "next") == [9]
    assert promotion._find_standing([*back, entry("promote", 4, 3)], "champion") == [3, 4]


def save(settings: Settings, name: str, dataset: PreparedDataset, seed: int) -> str:
    """A student of random weights; its hash."""
    torch.manual_seed(seed)
    save_checkpoint(settings.layout.student(name), SASRec(SASRecConfig(width=8), num_items=60), dataset)
    manifest = storage.read_manifest(settings.layout.student(name))
    assert manifest is not None
    return manifest.content_hash


def test_from_evaluation_to_what_is_served(
    random_dataset: Callable[..., PreparedDataset], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sasrec = {"model": {"kind": "sasrec", "width": 8}}
    values = {"name": "p", "storage": str(tmp_path), "students": {"a": sasrec, "b": sasrec}, "evaluation": QUICK}
    values["serving"] = {"student": "@champion", "arms": ["student"], "split": {"student": 1}}
    settings, dataset = from_dict(Settings, values), random_dataset()
    dataset.write(settings.layout.dataset)
    with pytest.raises(UserError, match="no evaluation of a student as it is now is in the model registry"):
        promotion.promote(settings)
    first = {name: save(settings, name, dataset, seed) for seed, name in enumerate("ab")}
    for _ in range(2):  # what is registered once stays one version
        rows = {row["name"]: row for row in evaluation.make(settings, InProcess(), force=True)}
    registry = Registry(settings.tracking, settings.layout.mlflow, "p")
    versions = {v.tags["student"]: v for v in registry.versions()}
    assert sorted(v.number for v in registry.versions()) == [1, 2]
    for name, found in versions.items():
        assert found.tags["checkpoint"] == first[name] and found.tags["dataset"] == dataset.fingerprint
        assert found.measured("unmasked.hr@10") == rows[name]["metrics"]["unmasked"]["hr@10"]
    with pytest.raises(UserError, match="no student of p is @champion; run promote --alias champion, or name one"):
        application.inspect_arms(settings)

    quality = {name: rows[name]["metrics"]["masked"]["ndcg@10"] for name in "ab"}
    worse, best = sorted("ab", key=lambda name: (quality[name], versions[name].number))
    outcome = promotion.promote(settings, worse)
    assert outcome.done and outcome.said == f"version {versions[worse].number} ({worse}) is @champion now"
    assert promotion.promote(settings, worse).said.endswith("is @champion already")
    assert application.inspect_arms(settings)["student"]["hash"] == first[worse]

    strict = replace(settings, promotion=PromotionConfig(margin=1.0))
    refused = promotion.promote(strict)
    assert not refused.done and f"({best}) is not promoted: NDCG@10" in refused.said
    assert registry.find("champion") == registry_version(registry, versions[worse].number)
    lenient = replace(settings, promotion=PromotionConfig(margin=-1.0))
    assert promotion.promote(lenient).said.endswith(f"in place of version {versions[worse].number} ({worse})")
    assert application.inspect_arms(settings)["student"]["hash"] == first[best]

    pinned = application.application(settings)._bound_deployment.init_args[1]
    kept = settings.layout.student(f"{best}.{first[best][:12]}")
    assert pinned.uris == {"student": kept}, "replicas that start anew find the same"

    # Further arms find versions in the registry too, of this project or, as here, of one seen from another.
    number = versions[worse].number
    elsewhere = replace(settings, name="q")
    for model, uri in (
        ("models:/p@champion", kept),
        (f"models:/p/{versions[best].number}", kept),
        (f"models:/p/{number}", settings.layout.student(f"{worse}.{first[worse][:12]}")),
    ):
        assert promotion.find_checkpoint(settings, model) == promotion.find_checkpoint(elsewhere, model) == uri
    assert promotion.find_checkpoint(settings, "@champion") == kept
    for model, message in (
        ("models:/p@next", "the model registry holds no models:/p@next; run promote --alias next, or name another"),
        ("models:/p/99", "the model registry holds no models:/p/99; run evaluate"),
        ("models:/r/1", "the model registry holds no models:/r/1"),
    ):
        with pytest.raises(UserError, match=message):
            promotion.find_checkpoint(settings, model)

    # What is trained anew changes nothing of what is served, and is promoted only once it was evaluated.
    second = save(settings, best, dataset, 7)
    assert second != first[best] and application.inspect_arms(settings)["student"]["hash"] == first[best]
    with pytest.raises(UserError, match=f"no evaluation of {best} as it is now"):
        promotion.promote(lenient, best)
    evaluation.make(settings, InProcess())
    assert promotion.promote(lenient, best).done
    assert application.inspect_arms(settings)["student"]["hash"] == second

    # Of what was evaluated and never promoted there is no copy.
    third = save(settings, worse, dataset, 9)
    assert third != first[worse]
    evaluation.make(settings, InProcess())
    latest = f"models:/p/{max(v.number for v in registry.versions())}"
    assert promotion.find_checkpoint(settings, latest) == settings.layout.student(worse)
    save(settings, worse, dataset, 10)
    with pytest.raises(UserError, match=f"the checkpoint of {latest}, version .* has been replaced since it was evalu"):
        promotion.find_checkpoint(settings, latest)

    # Back, and back again; then there is nothing before.
    served = []
    for _ in range(2):
        assert promotion.roll_back(settings).done
        served.append(application.inspect_arms(settings)["student"]["hash"])
    assert served == [first[best], first[worse]]
    with pytest.raises(UserError, match=f"nothing is on record that was @champion before version .* \\({worse}\\)"):
        promotion.roll_back(settings)
    record = promotion.read_promotions(settings)
    assert [entry["what"] for entry in record] == ["promote"] * 3 + ["rollback"] * 2
    assert [entry["checkpoint"] for entry in record] == [first[worse], first[best], second, first[best], first[worse]]
    assert [entry["before"] for entry in record[1:]] == [entry["version"] for entry in record[:-1]]
    present = registry.find("champion")
    assert present is not None and present.tags["rollback.champion"] == record[-1]["when"]
    assert "not recorded" not in capsys.readouterr().out


def registry_version(registry: Registry, number: int) -> Version:
    return next(version for version in registry.versions() if version.number == number)


def test_without_a_registry_nothing_is_promoted(tmp_path: Path) -> None:
    settings = from_dict(Settings, {"storage": str(tmp_path), "tracking": {"uri": "none"}})
    with pytest.raises(UserError, match=r"tracking\.uri is none, so there is no model registry"):
        promotion.roll_back(settings)


def test_a_name_means_itself() -> None:
    settings = from_dict(Settings, {"serving": {"student": "mine"}, "tracking": {"uri": "none"}})
    assert promotion.find_student(settings) == "mine"
    for model, uri in (
        ("mine", settings.layout.student("mine")),
        ("teacher", settings.layout.teacher),
        ("sequential-rules", settings.layout.rules("sequential-rules")),
    ):
        assert promotion.find_checkpoint(settings, model) == uri
