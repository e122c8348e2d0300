"""What a request must be before the application sees it: headers that are text, and a body that comes in time.

Pure ASGI, so that it stands before FastAPI and before Ray Serve's proxy alike. A request keeps one of the places that
Serve gives its replicas until it is answered, so bodies that trickle in must not hold one for as long as they like.
"""

import asyncio

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY = 1 << 20
"""Bytes a body may have."""
BODY_SECONDS = 10.0
"""Time a body may take."""

# Ray Serve reads these as UTF-8 and answers 500 where they are not.
_TEXT_HEADERS = {b"x-request-id", b"x-session-id", b"serve-multiplexed-model-id", b"traceparent"}
_WITHOUT_BODY = {"GET", "HEAD", "OPTIONS"}


class Guard:
    """ASGI middleware: hands a request on once its body is whole, and refuses it with one sentence where that fails.

    400: a header that must be text is not. 408: the body takes longer than `seconds`. 422: it is longer than
    `MAX_BODY`; what comes after is not kept.
    """

    def __init__(self, app: ASGIApp, *, seconds: float = BODY_SECONDS) -> None:
        self.app = app
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if (name := _find_undecodable(scope)) is not None:
            answer = JSONResponse({"detail": f"the header {name} is not UTF-8 text"}, 400)
            await answer(scope, receive, send)
            return
        if scope["method"] in _WITHOUT_BODY:
            await self.app(scope, receive, send)
            return
        try:
            body = await self._body(receive)
        except TimeoutError:
            answer = JSONResponse(
                {"detail": "the body did not come in time; send it again, at once"}, 408, {"connection": "close"}
            )
            await answer(scope, receive, send)
            return
        except OverflowError:
            answer = JSONResponse({"detail": f"the body is longer than {MAX_BODY} bytes; shorten the history"}, 422)
            await answer(scope, receive, send)
            return
        if body is None:
            return
        whole: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def rest() -> Message:
            return whole.pop() if whole else await receive()

        await self.app(scope, rest, send)

    async def _body(self, receive: Receive) -> bytes | None:
        """The whole body; None where the client has gone.

        Raises:
            TimeoutError: it takes too long.
            OverflowError: it is too long.
        """
        parts, size = [], 0
        async with asyncio.timeout(self._seconds):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return None
                part = message.get("body", b"")
                size += len(part)
                if size > MAX_BODY:
                    raise OverflowError
                parts.append(part)
                if not message.get("more_body", False):
                    return b"".join(parts)


def _find_undecodable(scope: Scope) -> str | None:
    """The name of a header that must be UTF-8 and is not."""
    for name, value in scope["headers"]:
        if name.lower().replace(b"_", b"-") in _TEXT_HEADERS:
            try:
                value.decode()
            except UnicodeDecodeError:
                return name.decode("latin-1")
    return None
