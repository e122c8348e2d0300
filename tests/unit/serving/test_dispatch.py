"""Who answers where an arm does not."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from recsys.data.prepared import PreparedDataset
from recsys.serving.arms import Absent
from recsys.serving.assignment import ARMS, Arm, assign
from recsys.serving.dispatch import Answered, Dispatcher, explain
from recsys.serving.experiment import Experiment, Kept
from recsys.serving.metrics import Metrics
from recsys.serving.ranker import Ask, Away, Busy, Late, Ranker
from recsys.serving.recommender import Recommendation, Recommender
from recsys.serving.service import RecommendRequest, Service

SPLIT: dict[Arm, float] = {"teacher": 0.5, "student": 0.5}
TAUGHT = next(f"u{n}" for n in range(9) if assign(f"u{n}", SPLIT, "s") == "teacher")


class Failing(Absent):
    """A model that fails as it is told, and notes what it was asked."""

    def __init__(self, error: Exception) -> None:
        super().__init__("")
        self.error = error
        self.asked: list[int] = []

    async def rank_together(self, asks: Sequence[Ask]) -> list[Recommendation]:
        self.asked.append(len(asks))
        raise self.error


@pytest.fixture
def student(recommender: Recommender) -> Ranker:
    return Ranker(recommender)


def answer(
    service: Service, *requests: RecommendRequest, fallback: Arm | None = "student", **models: Any
) -> list[Answered]:
    tasks = service.tasks(requests, "r")
    return asyncio.run(Dispatcher(service, models, fallback).answer(tasks))


@pytest.mark.parametrize(
    ("error", "reason"), [(Late("1 s"), "timeout"), (Busy("64 wait"), "busy"), (Away("gone"), "away")]
)
def test_the_student_answers_in_place_of_the_teacher(
    service: Service, student: Ranker, error: Exception, reason: str
) -> None:
    asked = RecommendRequest(user_id=TAUGHT, k=4)
    ((task, answered),) = answer(service, asked, teacher=Failing(error), student=student)
    assert (task.arm, task.answered_by, task.failed, task.assigned_by) == ("teacher", "student", reason, "user")
    ((own, expected),) = answer(service, RecommendRequest(user_id=TAUGHT, k=4, arm="student"), student=student)
    assert answered.items == expected.items and (own.answered_by, own.failed) == ("student", None)
    said = service.response(task, answered)
    assert (said.arm, said.answered_by, said.teacher_failed) == ("teacher", "student", reason)


@pytest.mark.parametrize(
    ("request_", "fallback", "models"),
    [
        (RecommendRequest(user_id=TAUGHT), None, ("student",)),
        (RecommendRequest(user_id=TAUGHT), "student", ()),
        (RecommendRequest(user_id=TAUGHT, arm="teacher"), "student", ("student",)),
    ],
    ids=["switched off", "no student", "the request names the teacher"],
)
def test_where_nobody_may_answer_in_its_place_the_teacher_failed(
    service: Service, student: Ranker, request_: RecommendRequest, fallback: Arm | None, models: tuple[str, ...]
) -> None:
    with pytest.raises(Busy, match="64 wait"):
        answer(service, request_, fallback=fallback, teacher=Failing(Busy("64 wait")), **dict.fromkeys(models, student))


def test_who_falls_back_on_a_student_that_is_away_is_told_of_the_teacher(service: Service) -> None:
    with pytest.raises(Late, match="the teacher did not"):
        answer(
            service, RecommendRequest(user_id=TAUGHT), teacher=Failing(Late("the teacher did not")), student=Absent("x")
        )


def test_a_student_without_room_has_nobody_in_its_place(service: Service, student: Ranker) -> None:
    asked = RecommendRequest(history=["i1"])
    assert service.task(asked).arm == "student"
    with pytest.raises(Busy):
        answer(service, asked, student=Failing(Busy("full")), teacher=student)


def test_in_a_batch_each_arm_is_asked_once_and_the_order_stays(service: Service, student: Ranker) -> None:
    requests = [
        RecommendRequest(user_id=TAUGHT, history=["i1"], k=2),
        RecommendRequest(history=["i2"], k=3),
        RecommendRequest(history=["i3"], arm="null", k=4),
        RecommendRequest(user_id=TAUGHT, history=["i4"], k=5),
    ]
    teacher = Failing(Away("gone"))
    answers = answer(service, *requests, teacher=teacher, student=student)
    assert teacher.asked == [2]
    assert [len(found.items) for _, found in answers] == [2, 3, 4, 5]
    assert [(task.answered_by, task.failed) for task, _ in answers] == [
        ("student", "away"), ("student", None), ("null", None), ("student", "away"),
    ]  # fmt: skip
    with pytest.raises(Away, match="gone"):  # whole or not at all
        answer(
            service, *requests[:3], RecommendRequest(history=["i4"], arm="teacher"), teacher=teacher, student=student
        )


@pytest.fixture
def four(dataset: PreparedDataset) -> Service:
    """A service whose users are all the challenger's."""
    experiment = Experiment(arms=(*ARMS, "challenger"), split={"challenger": 1}, salt="s", shadow=0)
    return Service(
        dataset, arms=experiment.arms, experiment=Kept(experiment), default_arm="student",
        max_k=20, max_history=30, max_ids=25, max_requests=4,
    )  # fmt: skip


def test_a_further_arm_that_fails_is_answered_for_and_counted(four: Service, student: Ranker) -> None:
    metrics = Metrics()
    models: dict[Arm, Any] = {"student": student, "challenger": Failing(Busy("full")), "spare": Failing(Away("gone"))}

    def ask(*requests: RecommendRequest, fallback: Arm | None = "student") -> list[Answered]:
        return asyncio.run(Dispatcher(four, models, fallback, metrics).answer(four.tasks(requests, "r")))

    asked = RecommendRequest(user_id="u1", history=["i1"])
    for task, _ in ask(asked, asked):
        said = four.response(task, Recommendation([], [], [], False))
        assert (said.arm, said.answered_by, said.failed, said.teacher_failed) == ("challenger", "student", "busy", None)
    for fallback in (None, "challenger", "spare"):
        with pytest.raises(Busy, match="full"):
            ask(asked, fallback=fallback)
    with pytest.raises(Busy, match="full"):
        ask(RecommendRequest(user_id="u1", history=["i1"], arm="challenger"))
    assert models["challenger"].asked == [2, 1, 1, 1, 1], "never twice, though it is its own fallback"
    counted = {
        (sample.labels["arm"], sample.labels["reason"], sample.labels["answered_by"]): sample.value
        for family in text_string_to_metric_families(metrics.text())
        for sample in family.samples
        if sample.name == "recsys_failures_total"
    }
    assert counted == {("challenger", "busy", "student"): 2, ("challenger", "busy", "none"): 4}


def test_a_further_arm_may_answer_for_the_others(four: Service, student: Ranker) -> None:
    asked = RecommendRequest(history=["i1"], k=3)
    ((task, answered),) = answer(four, asked, fallback="challenger", challenger=student, student=Failing(Late("1 s")))
    assert (task.arm, task.answered_by, task.failed) == ("student", "challenger", "timeout") and answered.items


def test_errors_have_a_word() -> None:
    assert [explain(error) for error in (Busy(""), Away(""), Late(""))] == ["busy", "away", "timeout"]
