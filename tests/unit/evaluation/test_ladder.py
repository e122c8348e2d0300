import dataclasses
import io

import numpy as np
import pytest
import torch

from recsys.data.prepared import PreparedDataset
from recsys.evaluation.ladder import build_rows, human_count, human_ms, print_ladder, verdict
from recsys.evaluation.metrics import gains
from recsys.evaluation.results import Ranks, Result, evaluate


@pytest.fixture
def ladder(random_dataset: PreparedDataset) -> dict:
    """Random scores under the names of a real ladder."""
    results: list[Result] = []
    ranks: dict[str, Ranks] = {}
    for seed, (name, role) in enumerate(
        [("teacher", "teacher"), ("sasrec", "student"), ("sasrec-distilled", "student"), ("popularity", "baseline")]
    ):
        scores = torch.rand(26, generator=torch.Generator().manual_seed(seed))
        result, ranks[name] = evaluate(
            lambda histories, scores=scores: scores.expand(len(histories), -1),
            random_dataset,
            "test",
            batch_size=16,
            name=name,
            role=role,
            kind=name,
            key="",
            seed=seed,
            checkpoint_hash=None,
            parameters={"trainable": 10, "served": 1_234_567},
            training={},
        )
        results.append(result)
    latency = {name: {"median_ms": 0.5, "p95_ms": 1.0, "requests": 9.0} for name in ranks}
    rows = build_rows(results, ranks, latency, {"sasrec-distilled": "sasrec"}, random_dataset, bootstrap_samples=200)
    return {
        "mask_seen": True,
        "dataset": random_dataset.describe(),
        "test_rows": 40,
        "rows": rows,
        "ranks": ranks,
    }


def test_baselines_first_teacher_last(ladder: dict) -> None:
    assert [row["name"] for row in ladder["rows"]] == ["popularity", "sasrec", "sasrec-distilled", "teacher"]


@pytest.mark.parametrize(
    ("settings", "distilled"),
    [
        ({"distillation": {"ranking": {}}}, True),
        ({"alignment": {"cosine": 0.0, "norm": 0.1, "logits": 0.0}}, True),
        ({"alignment": {"cosine": 0.0, "norm": 0.0, "logits": 0.0, "supervision": 1.0}}, False),
        ({"distillation": None, "alignment": None}, False),
    ],
)
def test_who_is_taught_by_a_teacher_is_distilled(
    random_dataset: PreparedDataset, settings: dict, distilled: bool
) -> None:
    result, _ = evaluate(
        lambda histories: torch.zeros(len(histories), 26),
        random_dataset,
        "test",
        batch_size=16,
        name="student",
        role="student",
        kind="slmrec",
        key="",
        seed=0,
        checkpoint_hash=None,
        parameters={},
        training={"settings": settings},
    )
    (row,) = build_rows([result], {}, {}, {}, random_dataset, bootstrap_samples=100)
    assert row["distilled"] == distilled


def test_the_difference_is_that_of_the_metrics(ladder: dict) -> None:
    rows = {row["name"]: row for row in ladder["rows"]}
    assert rows["sasrec"]["difference"] is None
    for rule in ("masked", "unmasked"):
        ours, theirs = (rows[n]["metrics"][rule]["ndcg@10"] for n in ("sasrec-distilled", "sasrec"))
        difference = rows["sasrec-distilled"]["difference"][rule]
        assert difference["difference"] == pytest.approx(ours - theirs)
        assert difference["low"] <= difference["difference"] <= difference["high"]
        assert ours == pytest.approx(np.mean(gains(ladder["ranks"]["sasrec-distilled"].by_rule[rule], 10)))


def test_the_printed_table_is_plain_narrow_and_complete(ladder: dict) -> None:
    out = io.StringIO()
    print_ladder(ladder, out)
    text = out.getvalue()
    assert "\x1b" not in text and "\r" not in text
    assert max(len(line) for line in text.splitlines()) <= 110
    for row in ladder["rows"]:
        line = next(line for line in text.splitlines() if line.strip().startswith(f"{row['name']} "))
        assert f"{row['metrics']['masked']['ndcg@10']:.4f}" in line
        assert f"{row['metrics']['masked']['hr@10']:.4f}" in line
        assert "1.23 M" in line and "0.50" in line
        assert ("95 %" in line) == (row["name"] == "sasrec-distilled")
    unmasked = io.StringIO()
    print_ladder({**ladder, "mask_seen": False}, unmasked)
    assert f"{ladder['rows'][0]['metrics']['unmasked']['hr@10']:.4f}" in unmasked.getvalue()


def with_quality(ladder: dict, **quality: float) -> dict:
    for row in ladder["rows"]:
        row["metrics"]["masked"]["ndcg@10"] = quality.get(row["name"].replace("-", "_"), 0.0)
    return ladder


def test_a_teacher_below_a_student_alone_is_said(ladder: dict) -> None:
    said = verdict(with_quality(ladder, sasrec=0.2, teacher=0.1, sasrec_distilled=0.05))
    assert said is not None
    assert said.startswith(
        "The teacher ranks below sasrec, a student that learned alone (NDCG@10 0.1000 against 0.2000)"
    )
    out = io.StringIO()
    print_ladder(ladder, out)
    assert " ".join(out.getvalue().split()).endswith(said)


def test_nothing_is_said_of_a_teacher_above_what_learned_alone(ladder: dict) -> None:
    assert verdict(with_quality(ladder, sasrec=0.1, teacher=0.1, sasrec_distilled=0.3, popularity=0.4)) is None
    # Of the same kind: cut from it, or a smaller copy of it.
    next(row for row in ladder["rows"] if row["name"] == "sasrec")["kind"] = "teacher"
    assert verdict(with_quality(ladder, sasrec=0.2, teacher=0.1)) is None


def test_pairs_must_be_of_the_same_rows(ladder: dict, random_dataset: PreparedDataset) -> None:
    ranks = dict(ladder["ranks"])
    ranks["sasrec"] = dataclasses.replace(ranks["sasrec"], rows=ranks["sasrec"].rows[::-1])
    result, _ = evaluate(
        lambda histories: torch.rand(len(histories), 26),
        random_dataset,
        "test",
        batch_size=16,
        **dict.fromkeys(("seed", "checkpoint_hash")),
        **{f: {} for f in ("parameters", "training")},
        name="sasrec-distilled",
        role="student",
        kind="",
        key="",
    )
    with pytest.raises(AssertionError, match="same split"):
        build_rows([result], ranks, {}, {"sasrec-distilled": "sasrec"}, random_dataset, bootstrap_samples=100)


def test_numbers_for_people() -> None:
    assert [human_count(n) for n in (7, 86_336, 2_345_678)] == ["7", "86,336", "2.35 M"]
    assert [human_ms(ms) for ms in (None, 0.4567, 45.67, 4567.8)] == ["–", "0.46", "45.7", "4,568"]
