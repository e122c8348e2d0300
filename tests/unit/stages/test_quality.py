"""What was measured of what is served, with a real ladder and MLflow's registry in a real SQLite store."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from recsys import storage
from recsys.checkpoint import save_checkpoint
from recsys.config import copy_with, from_dict
from recsys.data.prepared import PreparedDataset
from recsys.settings import Settings
from recsys.stages import evaluation, export
from recsys.stages.executor import InProcess
from recsys.stages.quality import find_quality
from recsys.students.config import SASRecConfig
from recsys.students.sasrec import SASRec
from recsys.tracking import TrackingConfig


def save(settings: Settings, dataset: PreparedDataset, seed: int) -> str:
    torch.manual_seed(seed)
    save_checkpoint(settings.layout.student("a"), SASRec(SASRecConfig(width=8), num_items=60), dataset)
    manifest = storage.read_manifest(settings.layout.student("a"))
    assert manifest is not None
    return manifest.content_hash


def evaluate(settings: Settings) -> dict[str, float]:
    rows: list[dict[str, Any]] = evaluation.make(settings, InProcess())
    return {row["name"]: row["metrics"]["masked"]["ndcg@10"] for row in rows}


@pytest.mark.timeout(600)
def test_quality_is_that_of_the_checkpoints_themselves(
    random_dataset: Callable[..., PreparedDataset], tmp_path: Path
) -> None:
    settings = from_dict(
        Settings,
        {
            "name": "p",
            "storage": str(tmp_path),
            "students": {"a": {"model": {"kind": "sasrec", "width": 8}}},
            "evaluation": {"bootstrap_samples": 100, "latency_requests": 3},
            "serving": {"student": "a", "arms": ["student", "null"], "split": {"student": 1}},
        },
    )
    dataset = random_dataset()
    dataset.write(settings.layout.dataset)
    first = save(settings, dataset, 0)
    assert find_quality(settings, {"student": first, "null": None}) == {}, "nothing was evaluated"
    before = evaluate(settings)
    assert find_quality(settings, {"student": first, "null": None}) == {
        "student": before["a"], "null": before["recent-popularity"],
    }  # fmt: skip

    export.make(settings, "a")
    manifest = storage.read_manifest(settings.layout.export("a"))
    assert manifest is not None
    file = copy_with(settings.serving, further_arms={"file": {"model": "export:a", "in_ingress": True}})
    exported = {"file": manifest.content_hash}
    assert find_quality(replace(settings, serving=file), exported) == {"file": before["a"]}
    assert find_quality(settings, exported) == {}

    second = save(settings, dataset, 1)
    assert find_quality(settings, {"student": second}) == {}, "what was measured is of another checkpoint"
    after = evaluate(settings)
    assert after["a"] != before["a"]
    both = {"student": second, "old": first}
    assert find_quality(settings, both) == {"student": after["a"], "old": pytest.approx(before["a"])}
    unrecorded = replace(settings, tracking=TrackingConfig(uri="none"))
    assert find_quality(unrecorded, both) == {"student": after["a"]}, "no registry, no ladder that holds it"

    # Another project with the same dataset serves a version of this one.
    arms = {"old": {"model": "models:/p/1", "in_ingress": True}}
    elsewhere = replace(settings, name="q", serving=copy_with(settings.serving, further_arms=arms))
    dataset.write(elsewhere.layout.dataset)
    assert find_quality(elsewhere, both) == {"old": pytest.approx(before["a"])}
    other = replace(dataset, user_ids=[f"v{user}" for user in dataset.user_ids], fingerprint="")
    for project in (settings, elsewhere):
        other.write(project.layout.dataset)
    assert find_quality(settings, {"student": second, "null": None}) == {}, "the ladder is of other rows"
    assert find_quality(elsewhere, both) == {}, "measured on other rows"
