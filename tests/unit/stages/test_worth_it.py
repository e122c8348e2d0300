"""From a log to the page, before a model is there and after an evaluation; nothing is trained."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from recsys import storage
from recsys.checkpoint import save_checkpoint
from recsys.config import load_config
from recsys.data.prepared import PreparedDataset
from recsys.settings import Settings
from recsys.signals.signals import SignalsMeta, rankings_table
from recsys.stages import evaluation, worth_it
from recsys.stages.executor import InProcess
from recsys.students.config import SASRecConfig
from recsys.students.sasrec import SASRec


@pytest.fixture
def settings(project_root: Path, fixture_data: Path, tmp_path: Path) -> Settings:
    return load_config(
        Settings,
        project_root / "ray_jobs/configs/fixture.yaml",
        [
            f"data.path={fixture_data}", f"storage={tmp_path}", "tracking.uri=none", "rules.titles=null",
            "rules.tuning.rounds=1", "evaluation.latency_requests=5",
        ],
    )  # fmt: skip


def add_models(settings: Settings) -> None:
    """Students as they are before training, and lists in which the teacher is always right."""
    layout = settings.layout
    dataset = PreparedDataset.load(layout.dataset)
    for seed, name in enumerate(("sasrec", "sasrec-distilled")):
        torch.manual_seed(seed)
        config = SASRecConfig(width=8, heads=1, blocks=1)
        info = {"settings": {"distillation": {"signals": "" if seed else "rules"}} if seed else {}}
        save_checkpoint(layout.student(name), SASRec(config, num_items=dataset.num_items), dataset, info=info)
    add_signals(settings, dataset, 10)


def add_signals(settings: Settings, dataset: PreparedDataset, k: int) -> None:
    rows = np.sort(np.concatenate([dataset.rows("train"), dataset.rows("valid")]))
    items = (dataset.targets(rows)[:, None] - 1 + np.arange(k)) % dataset.num_items + 1
    with storage.new_artifact(settings.layout.signals) as directory:
        (directory / "rankings").mkdir()
        table = rankings_table(rows, items, -np.tile(np.arange(k), (len(rows), 1)), np.ones(len(rows)))
        pq.write_table(table, directory / "rankings" / "part-00000.parquet")
        save_file({"item_embeddings": torch.ones(dataset.num_items + 1, 2)}, directory / "item_embeddings.safetensors")
        cost = {"device_seconds": 360.0}
        meta = SignalsMeta(teacher="t", checkpoint_hash="c", fingerprint=dataset.fingerprint, k=k, cost=cost)
        (directory / "signals.json").write_text(meta.to_json())


def test_a_log_alone_and_then_its_models(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    found = worth_it.make(settings, InProcess())
    layout = settings.layout
    assert found["models"] is None and found["sample"] is None and found["teacher_cost"] is None
    assert [each["name"] for each in found["shortcuts"]] == ["Few successors", "The latest items are enough"]
    assert storage.read_json(storage.join(layout.worth_it, "worth-it.json")) == found
    page = Path(layout.worth_it, "worth-it.html").read_text()
    assert found["verdict"] in page and "http" not in page.replace("http://www.w3.org", "")
    assert {p.name for p in Path(layout.worth_it).glob("*.png")} == {
        "history.png", "hits.png", "targets.png", "successors.png"
    }  # fmt: skip
    said = capsys.readouterr().out
    assert "Few successors: " in said and found["verdict"] in said
    worth_it.make(settings, InProcess())
    assert "worth_it: unchanged, kept" in capsys.readouterr().out

    add_models(settings)
    evaluation.make(settings, InProcess())
    found = worth_it.make(settings, InProcess())
    groups = {row["name"]: row["group"] for row in found["models"]["rows"]}
    assert groups["sasrec"] == "alone" and groups["sasrec-distilled"] == "distilled"
    assert groups["sequential-rules"] == "counting"
    pairs = {(each["of"], each["over"]) for each in found["models"]["better"]}
    best = found["models"]["best"]
    assert pairs == {
        (best["counting"], "sasrec"),
        ("sasrec-distilled", "sasrec"),
        ("sasrec-distilled", best["without"]),
    }
    for row in found["models"]["rows"]:
        stored = storage.read_json(storage.join(layout.results, f"{row['name']}.json"))
        assert row["ndcg@10"]["mean"] == pytest.approx(stored["metrics"]["masked"]["ndcg@10"])
        assert row["per_million"] == pytest.approx(row["ms"] * 1e6 / 3.6e6 * 0.05)
    sample = found["sample"]
    dataset = PreparedDataset.load(layout.dataset)
    seen = float(np.mean([t in dataset.seen(r) for r, t in zip(*rows_and_targets(dataset), strict=True)]))
    assert sample["teacher"] == pytest.approx(1 - seen), "its lists begin with the true item"
    assert [each["over"] for each in sample["better"]] == ["sequential-rules", "sasrec"]
    assert all(each["low"] > 0 for each in sample["better"]), "so nothing warns of it"
    assert not any("validation rows" in each for each in found["warnings"])
    add_signals(settings, dataset, 5)
    assert worth_it.make(settings, InProcess())["sample"] is None, "NDCG@10 needs ten items"
    assert "models.png" in {p.name for p in Path(layout.worth_it).glob("*.png")}


def rows_and_targets(dataset: PreparedDataset) -> tuple[list[int], list[int]]:
    rows = dataset.rows("valid")
    return rows.tolist(), dataset.targets(rows).tolist()


def test_a_ladder_of_another_dataset_is_left_out(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    other: dict[str, Any] = {"dataset": {"fingerprint": "x"}, "rows": []}
    storage.write_json(storage.join(settings.layout.results, "ladder.json"), other)
    assert worth_it.make(settings, InProcess())["models"] is None
    assert "the ladder is of another dataset, left out; run evaluate again" in capsys.readouterr().out
