"""Load on a small real server whose behaviour is known."""

import asyncio
import itertools
import json
import time
from collections.abc import Awaitable, Callable, Iterator

import numpy as np
import pytest
from starlette.types import Receive, Scope, Send

from recsys.errors import UserError
from recsys.serving.load import (
    ENOUGH_FOR_P999,
    GRID,
    Clients,
    Load,
    Objective,
    Trace,
    draw_trace,
    find_highest,
    measure_load,
    start_clients,
    summarise,
)
from tests.unit.serving.conftest import listening

HISTORIES = [[f"i{n}"] for n in range(1, 8)]
PROMISE = Objective(p99_ms=100)


class Server:
    """Answers at once; `before` may wait or give a status."""

    def __init__(self, before: Callable[["Server", str], Awaitable[int]] | None = None) -> None:
        self.asked: list[str] = []
        self._before = before

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        body = json.loads((await receive())["body"])
        self.asked.append(body["history"][0])
        status = await self._before(self, body["arm"]) if self._before else 200
        answer = json.dumps({"model_ms": 1.5}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(answer)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": answer})


@pytest.fixture(scope="module")
def clients() -> Iterator[Clients]:
    with start_clients(2, timeout=3.0) as clients:
        yield clients


def load_of(seconds: np.ndarray, outcome: list[str] | None = None, **other: np.ndarray) -> Load:
    count = len(seconds)
    facts = {
        "at": np.arange(count) * 0.01,
        "late": np.zeros(count),
        "model_ms": np.full(count, 2.0),
        "lags": np.full(9, 0.001),
    } | other
    return Load(seconds=seconds, outcome=np.array(outcome or ["ok"] * count, dtype=object), busy=0.1, **facts)


def test_arrivals_are_poisson_and_the_same_for_the_same_seed() -> None:
    trace = draw_trace(100, 50, HISTORIES, seed=1)
    gaps = np.diff(trace.at)
    assert len(trace.at) == pytest.approx(5000, abs=4 * 5000**0.5) and trace.at[-1] < 50
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05), "as wide as they are long: memoryless"
    assert list(trace.histories[:8]) == [*HISTORIES, HISTORIES[0]]
    assert np.array_equal(draw_trace(100, 50, HISTORIES, seed=1).at, trace.at)
    assert not np.array_equal(draw_trace(100, 50, HISTORIES, seed=2).at[:9], trace.at[:9])
    assert len(draw_trace(0.001, 1, HISTORIES).at) == 1


def test_a_stall_shows_in_the_open_loop_and_hides_in_the_closed_one(clients: Clients) -> None:
    """Between two of its answers the server does nothing for 2 s, once; a busy machine is late by less."""

    def stall_once() -> Server:
        async def stall(server: Server, arm: str) -> int:
            if len(server.asked) == 20:
                time.sleep(2)
            return 200

        return Server(stall)

    with listening(stall_once()) as url:
        opened = clients.send(url, "student", draw_trace(40, 4, HISTORIES))
    with listening(stall_once()) as url:
        closed = clients.keep_busy(url, "student", HISTORIES, connections=1, seconds=5)
    seen, hidden = (summarise(load, settle=0, seconds=5, objective=PROMISE) for load in (opened, closed))
    assert seen["p90_ms"] > 1000 and not seen["keeps_objective"]
    assert hidden["max_ms"] > 1900 and hidden["p90_ms"] < 1000, "one request alone tells of it"


def test_every_request_is_sent_when_it_is_due_by_several_processes(clients: Clients) -> None:
    server = Server()
    trace = draw_trace(60, 1, HISTORIES)
    with listening(server) as url:
        load = clients.send(url, "student", trace)
    assert np.allclose(load.at, trace.at) and (load.late >= 0).all()
    assert sorted(server.asked) == sorted(history[0] for history in trace.histories)
    assert set(load.outcome) == {"ok"} and (load.model_ms == 1.5).all() and load.busy > 0


def test_latency_counts_from_when_a_request_was_due(clients: Clients) -> None:
    with listening(Server()) as url:
        load = clients.send(url, "student", Trace(np.array([-0.5, 0.0]), HISTORIES[:2]))  # half a second ago
    assert load.late[0] >= 0.5 and load.seconds[0] > load.late[0]


def test_what_is_refused_given_up_or_wrong_is_counted_apart(clients: Clients) -> None:
    async def each_in_turn(server: Server, arm: str) -> int:
        turn = len(server.asked) % 4
        if turn == 1:
            await asyncio.sleep(10)
        return {0: 200, 1: 200, 2: 503, 3: 500}[turn]

    with listening(Server(each_in_turn)) as url:
        load = clients.send(url, "student", draw_trace(40, 1, HISTORIES))
        told = summarise(load, settle=0, seconds=1, objective=PROMISE)
    quarter = told["requests"] // 4
    for count in (told["answered"], told["timeouts"], told["shed"], told["errors"]["status 500"]):
        assert count in (quarter, quarter + 1)
    assert told["max_ms"] >= 3000, "who was given up had waited as long"
    gone = clients.send("http://127.0.0.1:9", "student", draw_trace(20, 0.5, HISTORIES))
    told = summarise(gone, settle=0, seconds=0.5, objective=PROMISE)
    assert told["errors"] == {"ConnectError": told["requests"]} and not told["keeps_objective"]
    assert "p99_ms" not in told and told["model_p50_ms"] is None
    json.dumps(told, allow_nan=False)


def test_all_loads_on_all_arms_with_the_same_requests(clients: Clients) -> None:
    async def only_the_student_keeps_up(server: Server, arm: str) -> int:
        return 200 if arm == "student" else 503

    server, said, cpu = Server(only_the_student_keeps_up), [], itertools.count()
    with listening(server) as url:
        told = measure_load(
            clients,
            url,
            ["teacher", "student"],
            HISTORIES,
            rates=[40, 20],
            connections=[3],
            settle=0.1,
            seconds=0.4,
            objective=Objective(p99_ms=60_000),
            cpu=lambda: {"replica": float(at := next(cpu)), "ends" if at % 2 == 0 else "begins": 0.5},
            report=said.append,
        )
    rows = told["open_loop"]["arms"]
    assert [row["rate"] for row in rows["student"]] == [20, 40]
    assert [row["requests"] for row in rows["student"]] == [row["requests"] for row in rows["teacher"]]
    assert told["open_loop"]["highest"] == {"teacher": None, "student": 40}
    assert told["closed_loop"]["highest"] == {"teacher": None, "student": 3}
    for row in rows["student"]:
        assert 1e4 < row["cpu_seconds_per_million"] <= 1.5e6 / row["answered"], "1 s, and 0.5 s of a new process"
    assert "cpu_seconds_per_million" not in rows["teacher"][0]
    assert len(said) == 6 and "student at 20 requests a second" in said and "teacher at 3 connections" in said


def test_figures_by_hand() -> None:
    seconds = np.linspace(0.001, 0.4, 400)
    outcome = ["ok"] * 397 + ["timeout", "shed", "shed"]
    late = np.where(np.arange(400) >= 394, 0.02, 0.0)
    told = summarise(load_of(seconds, outcome, late=late), settle=1.0, seconds=3.0, objective=Objective(p99_ms=396))
    assert (told["requests"], told["answered"], told["timeouts"], told["shed"]) == (300, 297, 1, 2)
    counted = 1000 * seconds[100:398]
    assert told["p50_ms"] == pytest.approx(counted[148]) and told["max_ms"] == pytest.approx(398)
    low, high = told["p50_interval_ms"]
    assert low < told["p50_ms"] < high
    assert told["rps"] == 99 and told["model_p50_ms"] == 2
    assert not told["keeps_objective"], "1 % without an answer is not less than 1 %"
    assert told["client"] == {
        "busy": 0.1,
        "late_p50_ms": 0,
        "late_p99_ms": pytest.approx(20),
        "lag_p99_ms": 1,
        "saturated": True,
    }
    assert len(told["distribution_ms"]) == len(GRID) and "p99.9_ms" not in told
    assert summarise(load_of(seconds), settle=0, seconds=4, objective=Objective(p99_ms=396))["keeps_objective"]
    assert not summarise(load_of(seconds), settle=0, seconds=4, objective=Objective(p99_ms=395))["keeps_objective"]
    stopped = summarise(load_of(seconds, lags=np.full(9, 0.006)), settle=0, seconds=4, objective=PROMISE)
    assert stopped["client"]["saturated"], "in a closed loop a client is never late, but it may not get to run"
    many = load_of(np.linspace(0, 1, ENOUGH_FOR_P999))
    assert summarise(many, settle=0, seconds=100, objective=PROMISE)["p99.9_ms"] == pytest.approx(999, abs=1)


def test_the_highest_load_is_below_the_first_that_breaks_the_objective() -> None:
    rows = [{"rate": rate, "keeps_objective": keeps} for rate, keeps in ((4, True), (1, True), (2, True), (3, False))]
    assert find_highest(rows, "rate") == 2 and find_highest(rows[3:], "rate") is None


def test_a_client_that_ends_is_said() -> None:
    with start_clients(1) as clients:
        clients._processes[0].terminate()
        with pytest.raises(UserError, match="ended with exit status -15; measure again"):
            clients.send("http://127.0.0.1:9", "student", draw_trace(1, 1, HISTORIES))
