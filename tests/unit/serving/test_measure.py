import dataclasses

import numpy as np
import pytest

from recsys.data.prepared import PreparedDataset
from recsys.errors import UserError
from recsys.serving.measure import (
    TURN,
    Replay,
    Sample,
    ratios,
    replay,
    sample_histories,
    summary,
    wait_until_ready,
)
from recsys.serving.ranker import Ranker
from recsys.serving.recommender import Recommender
from recsys.serving.service import Service
from recsys.serving.web import create_app
from tests.unit.serving.conftest import listening


def test_histories_are_those_of_test_rows_as_a_model_sees_them(dataset: PreparedDataset) -> None:
    drawn = sample_histories(dataset, 200)  # more than there are rows: some twice
    possible = {
        tuple(f"i{n}" for n in dataset.seen(int(row))[-dataset.max_history :].tolist()) for row in dataset.rows("test")
    }
    assert {tuple(history) for history in drawn} == possible
    assert sample_histories(dataset, 5, seed=3) == sample_histories(dataset, 5, seed=3)
    assert len({tuple(history) for history in sample_histories(dataset, 12)}) == len(possible)


def test_another_seed_draws_other_histories(dataset: PreparedDataset) -> None:
    assert sample_histories(dataset, 5, seed=3) != sample_histories(dataset, 5, seed=4)


def test_arms_take_turns_in_a_shuffled_order(service: Service, recommender: Recommender) -> None:
    histories, order = [[f"i{n}"] for n in range(1, 41)], []
    with listening(create_app(service, {"student": Ranker(recommender)}, checkpoints={})) as url:
        result = replay(url, histories, ["student", "null"], k=3)
    assert [sample.error for sample in result.samples] == [None] * 80
    turns = [result.samples[begin : begin + TURN] for begin in range(0, 80, TURN)]
    for turn in turns:
        (arm,) = {sample.arm for sample in turn}
        order.append(arm)
    rounds = {tuple(order[begin : begin + 2]) for begin in range(0, len(order), 2)}
    assert rounds == {("student", "null"), ("null", "student")}


def test_no_test_rows(dataset: PreparedDataset) -> None:
    empty = dataclasses.replace(dataset, split_rows={**dataset.split_rows, "test": np.array([], dtype=np.int64)})
    with pytest.raises(UserError, match="no test rows"):
        sample_histories(empty, 5)


def test_summary_and_ratios_by_hand() -> None:
    teacher = [Sample("teacher", 0.010 * n, model_ms=4.0 * n) for n in range(1, 6)]
    student = [Sample("student", 0.006, 1.0), Sample("student", 0.008, 2.0), Sample("student", 9.0, error="status 500")]
    null = [Sample("null", 0.005)]
    figures = summary([Replay(teacher + student, {"teacher": 0.5, "student": 0.1}), Replay(null, {"null": 0.01})])
    assert figures["teacher"] == {
        "requests": 5,
        "errors": 0,
        "error_kinds": {},
        "rps": pytest.approx(10),
        "p50_ms": pytest.approx(30),
        "p95_ms": pytest.approx(48),
        "p99_ms": pytest.approx(49.6),
        "model_p50_ms": pytest.approx(12),
        "model_p95_ms": pytest.approx(19.2),
        "model_p99_ms": pytest.approx(19.84),
    }
    assert figures["student"]["errors"] == 1 and figures["student"]["error_kinds"] == {"status 500": 1}
    assert figures["student"]["p50_ms"] == pytest.approx(7), "a failed request has no latency"
    assert figures["student"]["rps"] == pytest.approx(20)
    assert ratios(figures) == {
        "teacher_over_student": pytest.approx(30 / 7),
        "teacher_over_student_model_time": pytest.approx(12 / 1.5),
        "student_minus_null_ms": pytest.approx(2),
        "student_over_null_p50": pytest.approx(7 / 5),
    }
    del figures["teacher"]
    assert set(ratios(figures)) == {"student_minus_null_ms", "student_over_null_p50"}


def test_no_server() -> None:
    with pytest.raises(UserError, match=r"no recommendation server answers at http://127.0.0.1:9 \(ConnectError\)"):
        wait_until_ready("http://127.0.0.1:9", 0.1)
