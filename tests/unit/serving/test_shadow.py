"""The teacher beside the student's answers: compared, bounded, and never in the way."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from recsys.serving.arms import Absent
from recsys.serving.assignment import Arm
from recsys.serving.events import EventLog, read_events
from recsys.serving.experiment import Change, Experiment, Kept
from recsys.serving.metrics import Metrics
from recsys.serving.ranker import Ask, Busy, Late
from recsys.serving.recommender import Recommendation
from recsys.serving.service import RecommendRequest, Service, Task
from recsys.serving.shadow import Shadow, agree

SHOWN = Recommendation(["i1", "i2", "i3", "i4"], [4, 3, 2, 1], [], False, checkpoint="s", milliseconds=1.5)
UNSEEN = Recommendation(["i4", "i9", "i1", "i8"], [4, 3, 2, 1], [], False, checkpoint="t", milliseconds=250.0, waited=7)


class Teacher(Absent):
    """A teacher that answers when `go` is set."""

    def __init__(self, outcome: Recommendation | Exception = UNSEEN) -> None:
        super().__init__("")
        self.outcome = outcome
        self.go = asyncio.Event()
        self.asked: list[Ask] = []

    async def rank(self, ask: Ask) -> Recommendation:
        self.asked.append(ask)
        await self.go.wait()
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


def run(
    service: Service,
    teacher: Teacher,
    tasks: Sequence[Task],
    *,
    answer: Recommendation = SHOWN,
    log: EventLog | None = None,
    arm: Arm = "teacher",
    meanwhile: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Have tasks considered while the teacher does not answer, then let it; the metrics by name and label."""
    metrics = Metrics()

    async def consider() -> None:
        shadow = Shadow({arm: teacher}, service.experiment, at_once=2, metrics=metrics, log=log)
        for task in tasks:
            shadow.consider(task, answer)
        await asyncio.sleep(0)
        meanwhile()
        teacher.go.set()
        while asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.sleep(0)

    asyncio.run(consider())
    return {
        sample.name
        + "".join(f" {value}" for name, value in sorted(sample.labels.items()) if name != "replica"): sample.value
        for family in text_string_to_metric_families(metrics.text())
        for sample in family.samples
    }


@pytest.fixture
def shadowed(service: Service, experiment: Kept) -> Service:
    asyncio.run(experiment.change(Change(shadow=1.0)))
    return service


def task(service: Service, **request: object) -> Task:
    return service.task(RecommendRequest(**{"history": ["i5"], "k": 4, **request}), "r1")  # type: ignore[arg-type]


def test_agreement_is_what_two_lists_have_in_common() -> None:
    assert agree(SHOWN.items, UNSEEN.items) == 0.5
    assert agree(["a", "b"], ["b", "a"]) == 1 and agree(["a"], ["b"]) == 0
    assert agree(["a"], ["a", "b", "c", "d"]) == 0.25 and agree([], []) == 0


def test_both_answers_come_to_the_metrics_and_the_log(shadowed: Service, tmp_path: Path) -> None:
    log, asked = EventLog(tmp_path, flush_seconds=0.01), task(shadowed, user_id="u1", arm="student")
    teacher = Teacher()
    found = run(shadowed, teacher, [asked], log=log)
    log.close()
    assert teacher.asked == [asked]
    assert found["recsys_shadow_total compared"] == found["recsys_shadow_agreement_count"] == 1
    assert found["recsys_shadow_agreement_sum"] == 0.5
    assert (found["recsys_shadow_agreement_bucket 0.4"], found["recsys_shadow_agreement_bucket 0.5"]) == (0, 1)
    assert found["recsys_shadow_model_seconds_sum student"] == 0.0015
    assert found["recsys_shadow_model_seconds_sum teacher"] == 0.25
    (event,) = read_events(tmp_path).to_pylist()
    assert {name: value for name, value in event.items() if value is not None and name != "time"} == {
        "kind": "shadow", "request_id": "r1", "user_id": "u1", "arm": "student", "assigned_by": "request",
        "experiment": 2, "answered_by": "teacher", "checkpoint": "t", "items": UNSEEN.items, "model_ms": 250,
        "queue_ms": 7, "agreement": 0.5,
    }  # fmt: skip


def test_a_further_arm_repeats_where_it_is_named(service: Service, tmp_path: Path) -> None:
    arms = ("teacher", "student", "null", "challenger")
    state = Experiment(arms=arms, split={"student": 1}, salt="s", shadow=1, shadow_arm="challenger")
    service.experiment = Kept(state)
    log, challenger = EventLog(tmp_path, flush_seconds=0.01), Teacher()
    found = run(service, challenger, [task(service)], log=log, arm="challenger")
    log.close()
    assert len(challenger.asked) == found["recsys_shadow_total compared"] == 1
    assert found["recsys_shadow_model_seconds_sum challenger"] == 0.25
    assert "recsys_shadow_model_seconds_sum teacher" not in found
    (event,) = read_events(tmp_path).to_pylist()
    assert (event["arm"], event["answered_by"]) == ("student", "challenger")


def test_what_finds_no_room_is_dropped_and_counted(shadowed: Service) -> None:
    teacher = Teacher()
    found = run(
        shadowed, teacher, [task(shadowed)] * 5, meanwhile=lambda: None if len(teacher.asked) == 2 else pytest.fail()
    )
    assert (found["recsys_shadow_total dropped"], found["recsys_shadow_total compared"]) == (3, 2)


@pytest.mark.parametrize(
    ("error", "outcome"), [(Late("60 s"), "timeout"), (Busy("full"), "busy"), (RuntimeError("broken"), "error")]
)
def test_a_teacher_that_fails_is_counted_and_harms_nobody(
    shadowed: Service, error: Exception, outcome: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found = run(shadowed, Teacher(error), [task(shadowed)])
    assert found[f"recsys_shadow_total {outcome}"] == 1 and "recsys_shadow_agreement_count" not in found
    assert ("broken" in capsys.readouterr().out) == (outcome == "error")


def test_only_answers_of_the_students_model_are_repeated(shadowed: Service) -> None:
    teacher = Teacher()
    taught, null = task(shadowed, arm="teacher"), task(shadowed, arm="null")
    run(shadowed, teacher, [taught, null, taught.fall_back("student", "busy")])
    run(shadowed, teacher, [task(shadowed)], answer=replace(SHOWN, checkpoint=None))
    assert not teacher.asked


def test_users_are_chosen_by_their_id_and_others_by_that_of_the_request(service: Service, experiment: Kept) -> None:
    asyncio.run(experiment.change(Change(shadow=0.5)))
    teacher = Teacher()
    for user in (f"v{n}" for n in range(30)):
        before = len(teacher.asked)
        run(service, teacher, [task(service, arm="student", user_id=spelled) for spelled in (user, f" {user}")])
        assert len(teacher.asked) - before == 2 * experiment.current.is_shadowed(user)
    assert 10 < len(teacher.asked) < 50
    teacher.asked.clear()
    for number in range(30):
        run(service, teacher, [replace(task(service), request_id=f"r{number}")])
    assert {ask.request_id for ask in teacher.asked} == {  # type: ignore[attr-defined]
        f"r{number}" for number in range(30) if experiment.current.is_shadowed(f"r{number}")
    }
