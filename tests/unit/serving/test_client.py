import json
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from recsys.errors import UserError
from recsys.ports import free_port
from recsys.serving import client as module
from recsys.serving.client import Client
from recsys.serving.ranker import Ranker
from recsys.serving.recommender import Recommender
from recsys.serving.selection import Selection
from recsys.serving.service import Service
from recsys.serving.web import create_app
from tests.unit.serving.conftest import listening

ANSWER = {
    "items": [{"item_id": "i9", "title": "Film number 9", "score": 2.5}], "arm": "student", "assigned_by": "default",
    "experiment": 1, "answered_by": "student",
    "checkpoint": "abc", "model_ms": 0.5, "unknown": [], "unknown_user": False, "fallback": False, "fewer": 0,
    "request_id": "r1", "user_id": None, "queue_ms": 0.0, "not_found": {},
}  # fmt: skip
Outcome = httpx.Response | Exception


class Clock:
    """Time that passes only where somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.slept.append(seconds)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def serving(outcomes: Callable[[int], Outcome]) -> tuple[Client, list[dict[str, Any]]]:
    bodies: list[dict[str, Any]] = []

    def handle(request: httpx.Request) -> httpx.Response:
        bodies.append(json.loads(request.content or b"null"))
        outcome = outcomes(len(bodies))
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    return Client("http://test/", transport=httpx.MockTransport(handle)), bodies


def test_connection_errors_and_503_are_asked_again(clock: Clock) -> None:
    before: list[Outcome] = [
        httpx.ConnectError("refused"),
        httpx.Response(503, json={"detail": "the arm is busy"}, headers={"retry-after": "3"}),
        httpx.ReadError("reset"),
        httpx.Response(503, text="Request dropped due to backpressure"),
    ]
    client, bodies = serving(lambda n: before[n - 1] if n <= len(before) else httpx.Response(200, json=ANSWER))
    answer = client.recommend(history=["i1"], k=1)
    assert (answer.items[0].item_id, answer.checkpoint) == ("i9", "abc")
    assert bodies == [{"k": 1, "mask_seen": True, "history": ["i1"]}] * 5
    assert clock.slept[1] == 3, "as the server asked"
    assert all(0.5 * pause <= slept <= pause for slept, pause in zip(clock.slept[::2], (0.1, 0.4), strict=True))


def test_a_selection_is_sent_as_far_as_it_says_anything(clock: Clock) -> None:
    client, bodies = serving(lambda _: httpx.Response(200, json=ANSWER))
    client.recommend(history=["i1"], selection=Selection())
    client.recommend(history=["i1"], selection=Selection(only=[]))
    full = {
        "exclude": ["i2"],
        "only": ["i3"],
        "where": {"genres": ["Drama"]},
        "at_most": {"brand": 1},
        "diversity": 0.5,
    }
    client.recommend(history=["i1"], selection=Selection(**full), attributes=True)  # type: ignore[arg-type]
    plain = {"k": 10, "mask_seen": True, "history": ["i1"]}
    assert bodies == [plain, {**plain, "only": []}, {**plain, **full, "attributes": True}]


def test_feedback_is_told(clock: Clock) -> None:
    client, bodies = serving(lambda _: httpx.Response(202, json={"recorded": True}))
    client.give_feedback("r1", "i9")
    assert bodies == [{"request_id": "r1", "item_id": "i9", "event": "click"}]


@pytest.mark.parametrize("status", [400, 408, 422, 500])
def test_what_the_server_refuses_is_not_asked_again(clock: Clock, status: int) -> None:
    client, bodies = serving(lambda _: httpx.Response(status, json={"detail": "k must be between 1 and 20"}))
    with pytest.raises(UserError, match=rf"http://test refuses the request \({status}\): k must be between 1 and 20"):
        client.recommend(user_id="u1")
    assert len(bodies) == 1


def test_there_is_an_end(clock: Clock) -> None:
    client, _ = serving(lambda _: httpx.ConnectError("refused"))
    with pytest.raises(UserError, match=r"http://test did not answer within 60 s \(ConnectError\); is it running\?"):
        client.health()
    assert 55 < clock.now <= 60 and max(clock.slept) <= 4


def test_something_else_that_answers(clock: Clock) -> None:
    client, _ = serving(lambda _: httpx.Response(200, text="<html>"))
    with pytest.raises(UserError, match="does not answer as a recommendation server does"):
        client.health()


def test_a_server_that_comes_later_is_found(service: Service, recommender: Recommender) -> None:
    port = free_port()
    answers: list[str] = []

    def ask() -> None:
        with Client(f"http://127.0.0.1:{port}") as client:
            answers.extend([client.recommend(history=["i1"]).arm, client.health()["status"]])

    asking = threading.Thread(target=ask)
    asking.start()
    time.sleep(0.3)
    with listening(create_app(service, {"student": Ranker(recommender)}, checkpoints={}), port):
        asking.join(30)
    assert answers == ["student", "ok"]
