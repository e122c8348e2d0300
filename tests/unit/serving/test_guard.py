"""Bodies that do not come and headers that are no text, over real sockets."""

import asyncio
import contextlib
import socket
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx
import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from recsys.serving.guard import MAX_BODY, Guard
from recsys.serving.ranker import Ranker
from recsys.serving.recommender import Recommender
from recsys.serving.service import Service
from recsys.serving.web import create_app
from tests.unit.serving.conftest import listening

REQUEST = b"POST /recommend HTTP/1.1\r\nhost: test\r\ncontent-type: application/json\r\n%scontent-length: %d\r\n\r\n%s"


class Places:
    """As many requests at once as Ray Serve has places for; the others wait."""

    def __init__(self, app: ASGIApp, number: int) -> None:
        self.app = app
        self._free = asyncio.Semaphore(number)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._free if scope["type"] == "http" else contextlib.nullcontext():
            await self.app(scope, receive, send)


def connect(url: str) -> socket.socket:
    address = urlsplit(url)
    return socket.create_connection((address.hostname or "", address.port or 0), timeout=20)


def answer(connection: socket.socket) -> tuple[int, str]:
    """Status and body, and that the server closes."""
    received = b""
    while part := connection.recv(4096):
        received += part
    head, _, body = received.partition(b"\r\n\r\n")
    return int(head.split()[1]), body.decode()


@pytest.fixture
def app(service: Service, recommender: Recommender) -> ASGIApp:
    return create_app(service, {"student": Ranker(recommender)}, checkpoints={}, body_seconds=3)


@pytest.fixture
def url(app: ASGIApp) -> Iterator[str]:
    with listening(app) as url:
        yield url


def test_bodies_that_do_not_come_take_no_place_from_others(app: ASGIApp) -> None:
    """With the guard before the places, as before Serve's proxy (`ray_jobs.serving.proxy`)."""
    with contextlib.ExitStack() as held:
        url = held.enter_context(listening(Guard(Places(app, 256), seconds=6)))
        connections = [held.enter_context(connect(url)) for _ in range(300)]
        started = time.monotonic()
        for connection in connections:
            connection.sendall(REQUEST % (b"", 100, b"{"))
        time.sleep(0.3)
        with httpx.Client(base_url=url, trust_env=False, timeout=20) as client:
            assert client.get("/health").status_code == 200
            assert client.post("/recommend", json={"history": ["i1"]}).status_code == 200
        assert time.monotonic() - started < 5.5, "others are answered before the deadline"
        answers = [answer(connection) for connection in connections]
        assert set(answers) == {(408, '{"detail":"the body did not come in time; send it again, at once"}')}


def test_without_a_proxy_bodies_have_a_deadline_too(url: str) -> None:
    with connect(url) as connection:
        connection.sendall(REQUEST % (b"", 100, b"{"))
        assert answer(connection)[0] == 408


def test_a_body_in_pieces_is_read_whole_as_long_as_it_comes_in_time(url: str) -> None:
    body = b'{"history": ["i1", "i2"], "k": 2}'
    with connect(url) as connection:
        connection.sendall(REQUEST % (b"connection: close\r\n", len(body), b""))
        for byte in range(len(body)):
            connection.sendall(body[byte : byte + 1])
            time.sleep(0.01)
        status, said = answer(connection)
    assert status == 200 and said.count("item_id") == 2


def test_a_body_that_is_too_long_is_one_sentence(url: str) -> None:
    said = httpx.post(f"{url}/recommend", content=b" " * (MAX_BODY + 1), trust_env=False)
    assert (said.status_code, said.json()["detail"]) == (
        422, "the body is longer than 1048576 bytes; shorten the history",
    )  # fmt: skip


def test_a_client_that_goes_in_the_middle_of_its_body_harms_nobody(url: str) -> None:
    for _ in range(50):
        with connect(url) as connection:
            connection.sendall(REQUEST % (b"", 100, b"{"))
    assert httpx.post(f"{url}/recommend", json={"history": ["i1"]}, trust_env=False).status_code == 200


def test_half_a_body_is_not_handed_on() -> None:
    handed_on: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        handed_on.append(scope)

    async def ask(*messages: Message) -> None:
        coming = iter(messages)

        async def receive() -> Message:
            return next(coming)

        async def send(message: Message) -> None:
            raise AssertionError("nobody is there to answer")

        await Guard(app)({"type": "http", "method": "POST", "headers": []}, receive, send)

    half = {"type": "http.request", "body": b"{", "more_body": True}
    asyncio.run(ask(half, {"type": "http.disconnect"}))
    assert not handed_on
    asyncio.run(ask(half, {"type": "http.request", "body": b"}"}))
    assert len(handed_on) == 1


@pytest.mark.parametrize("name", ["X-Request-ID", "x-session-id", "serve_multiplexed_model_id", "traceparent"])
def test_a_header_that_must_be_text_and_is_not_is_refused(url: str, name: str) -> None:
    with connect(url) as connection:
        connection.sendall(REQUEST % (f"connection: close\r\n{name}: ".encode() + b"a\xff\r\n", 2, b"{}"))
        status, said = answer(connection)
    assert status == 400
    assert said.lower() == f'{{"detail":"the header {name.lower()} is not utf-8 text"}}'


def test_other_headers_may_hold_any_byte(url: str) -> None:
    with connect(url) as connection:
        connection.sendall(REQUEST % (b"connection: close\r\nuser-agent: \xff\r\n", 18, b'{"history":["i1"]}'))
        assert answer(connection)[0] == 200
