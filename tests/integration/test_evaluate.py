"""Evaluation on Ray: the ladder from checkpoints of random initial weights, kept, redone in part, and refused."""

from pathlib import Path

import pytest
import torch

from ray_jobs.on_ray import OnRay
from recsys import storage
from recsys.checkpoint import load_checkpoint, save_checkpoint
from recsys.config import from_dict, to_dict
from recsys.data.config import DataConfig
from recsys.data.prepare import prepare
from recsys.data.prepared import PreparedDataset
from recsys.errors import UserError
from recsys.evaluation.metrics import metrics_from_ranks
from recsys.evaluation.ranking import model_scorer, rank_targets
from recsys.evaluation.results import read_ranks, read_result
from recsys.settings import Settings
from recsys.stages import evaluation, report
from recsys.students.config import SASRecConfig
from recsys.students.sasrec import SASRec

pytestmark = pytest.mark.ray
STUDENTS = ("sasrec", "sasrec-distilled")


@pytest.fixture(scope="module")
def dataset(fixture_data: Path) -> PreparedDataset:
    return prepare(DataConfig(path=str(fixture_data), max_history=10), "random-students")


def save_random_student(settings: Settings, name: str, dataset: PreparedDataset, seed: int) -> None:
    torch.manual_seed(seed)
    model = SASRec(SASRecConfig(width=8, heads=1, blocks=1, max_positions=10), num_items=dataset.num_items)
    info = {"settings": to_dict(settings.students[name])}
    save_checkpoint(settings.layout.student(name), model, dataset, info=info)


@pytest.fixture
def settings(dataset: PreparedDataset, tmp_path: Path) -> Settings:
    student = {"model": {"kind": "sasrec"}}
    settings = from_dict(
        Settings,
        {
            "name": "p", "storage": str(tmp_path), "tracking": {"uri": "none"},
            "students": {"sasrec": student, "sasrec-distilled": {**student, "distillation": {}}, "not-yet": student},
            "evaluation": {"latency_requests": 5, "bootstrap_samples": 100, "sampled": {"negatives": 5}},
        },
    )  # fmt: skip
    dataset.write(settings.layout.dataset)
    for seed, name in enumerate(STUDENTS):
        save_random_student(settings, name, dataset, seed)
    return settings


def test_ladder(
    ray_session: None, settings: Settings, dataset: PreparedDataset, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = evaluation.make(settings, executor=OnRay())
    printed = capsys.readouterr().out
    assert "not-yet has no checkpoint" in printed and "teacher has no checkpoint" in printed
    assert "Quality ladder, random-students" in printed
    assert [row["name"] for row in rows] == ["recent-popularity", "co-occurrence", *STUDENTS]
    assert all(row["latency"]["median_ms"] > 0 and 0 < row["sampled"]["hr@5"] <= 1 for row in rows)
    assert "among 5 sampled negatives" in printed

    # What a task wrote is what this process computes.
    checkpoint = load_checkpoint(settings.layout.student("sasrec"))
    ranks = rank_targets(model_scorer(checkpoint.model), dataset, dataset.rows("test"), mask_seen=True)
    result = read_result(settings.layout.results, "sasrec")
    assert result is not None
    assert read_ranks(settings.layout.results, result).by_rule["masked"].tolist() == ranks.tolist()
    assert result.metrics["masked"] == metrics_from_ranks(ranks) == rows[2]["metrics"]["masked"]
    assert result.checkpoint_hash == checkpoint.hash
    assert result.parameters["served"] == sum(p.numel() for p in checkpoint.model.parameters())
    distilled = rows[3]
    assert distilled["twin"] == "sasrec"
    difference = distilled["metrics"]["masked"]["ndcg@10"] - rows[2]["metrics"]["masked"]["ndcg@10"]
    assert distilled["difference"]["masked"]["difference"] == pytest.approx(difference)

    # Unchanged: the same table again, and nothing computed.
    assert evaluation.make(settings, executor=OnRay()) == rows
    again = capsys.readouterr().out
    assert "evaluation: unchanged, kept" in again
    assert printed[printed.index("Quality ladder") :] == again[again.index("Quality ladder") :]

    # One student changed: that one alone is evaluated.
    dates = {name: read_result(settings.layout.results, name) for name in ("co-occurrence", *STUDENTS)}
    save_random_student(settings, "sasrec-distilled", dataset, seed=9)
    evaluation.make(settings, executor=OnRay())
    assert "evaluate: sasrec-distilled  NDCG@10" in (printed := capsys.readouterr().out)
    assert "evaluate: sasrec  NDCG@10" not in printed
    for name in ("co-occurrence", "sasrec"):
        assert read_result(settings.layout.results, name) == dates[name]

    page = Path(report.make(settings))
    assert "random-students: quality and latency" in page.read_text()
    before = page.stat().st_mtime_ns
    assert report.make(settings) == str(page)
    assert page.stat().st_mtime_ns == before


def test_a_student_of_another_dataset_is_refused(
    ray_session: None, settings: Settings, dataset: PreparedDataset, fixture_data: Path
) -> None:
    other = prepare(DataConfig(path=str(fixture_data), max_history=7), "random-students")
    save_random_student(settings, "sasrec", other, seed=0)
    with pytest.raises(UserError, match=r"^sasrec was trained on dataset .* train it again$"):
        evaluation.make(settings, executor=OnRay())
    assert not storage.exists(storage.join(settings.layout.results, "ladder.json"))


def test_what_is_missing_is_said(settings: Settings, tmp_path: Path) -> None:
    nowhere = from_dict(Settings, {"storage": str(tmp_path / "nowhere")})
    with pytest.raises(UserError, match="run prepare_data first"):
        evaluation.make(nowhere, executor=OnRay())
    with pytest.raises(UserError, match="run evaluate first"):
        report.make(settings)
    with pytest.raises(UserError, match="cannot be called 'teacher'"):
        from_dict(Settings, {**to_dict(settings), "students": {"teacher": {"model": {"kind": "sasrec"}}}})


def test_twins() -> None:
    sasrec, gru = {"model": {"kind": "sasrec"}}, {"model": {"kind": "gru4rec"}}
    settings = from_dict(
        Settings,
        {
            "students": {
                "bce": {**sasrec, "loss": {"kind": "bce"}},
                "softmax": sasrec,
                "wide": {"model": {"kind": "sasrec", "width": 128}},
                "distilled": {**sasrec, "distillation": {}},
                "distilled-wide": {"model": {"kind": "sasrec", "width": 128}, "distillation": {}},
                "distilled-bce": {**sasrec, "loss": {"kind": "bce"}, "distillation": {}},
                "distilled-gru": {**gru, "distillation": {}},
                "mixed": {"model": {"kind": "hybrid", "student": "distilled-gru"}},
            }
        },
    )
    distilled = {"distilled": "softmax", "distilled-wide": "wide", "distilled-bce": "bce"}
    assert evaluation.pair_twins(settings) == {**distilled, "mixed": "distilled-gru"}
