"""A client of the served recommenders that outlives a restart of the server.

>>> with Client("http://127.0.0.1:8000") as client:  # doctest: +SKIP
...     answer = client.recommend(history=["50", "172"], k=5)
"""

import random
import time
from collections.abc import Sequence
from typing import Any

import httpx

from recsys.errors import UserError
from recsys.serving.assignment import Arm
from recsys.serving.selection import Selection
from recsys.serving.service import RecommendResponse

LONGEST_PAUSE = 4.0


class Client:
    """Asks again where asking again may help: after connection errors and 503, up to `seconds` in all.

    The pauses double, with chance in them so that many clients do not come back at once, and are no shorter than what
    the server asks for (`Retry-After`). Requests change nothing, so one that was answered in vain does no harm.

    Args:
        url: of the server.
        seconds: how long a request may take, retries included. When Ray Serve's proxy dies, another one answers
            after some 6 s.
        transport: what carries the requests, for tests.
    """

    def __init__(self, url: str, *, seconds: float = 60.0, transport: httpx.BaseTransport | None = None) -> None:
        self.url = url.rstrip("/")
        self._seconds = seconds
        # A proxy of the environment has no business with it.
        self._http = httpx.Client(base_url=self.url, trust_env=False, transport=transport)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def recommend(
        self,
        *,
        user_id: str | None = None,
        history: Sequence[str] | None = None,
        k: int = 10,
        arm: Arm | None = None,
        mask_seen: bool = True,
        selection: Selection | None = None,
        attributes: bool = False,
    ) -> RecommendResponse:
        """The `k` best items for a user, a history (catalogue ids, oldest first), or both.

        Args:
            selection: what may be recommended.
            attributes: ask for those of each item as well.

        Raises:
            UserError: the server refuses the request, or did not answer in time.
        """
        given = {
            "user_id": user_id,
            "history": None if history is None else list(history),
            "arm": arm,
            "attributes": attributes or None,
            **(_given(selection) if selection else {}),
        }
        body = {"k": k, "mask_seen": mask_seen, **{name: value for name, value in given.items() if value is not None}}
        return RecommendResponse.model_validate(self._ask("POST", "/recommend", body))

    def give_feedback(self, request_id: str, item_id: str, event: str = "click") -> None:
        """Tell what came of an answer. It may be logged twice where the connection breaks; clicks are counted once.

        Raises:
            UserError: the server keeps no log, or did not answer in time.
        """
        self._ask("POST", "/feedback", {"request_id": request_id, "item_id": item_id, "event": event})

    def health(self) -> dict[str, Any]:
        """What `/health` says; waits for a server where no arm can answer yet.

        Raises:
            UserError: no arm could answer in time.
        """
        return dict(self._ask("GET", "/health", None))

    def _ask(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        deadline = time.monotonic() + self._seconds
        pause = 0.1
        while True:
            left = max(deadline - time.monotonic(), 0.1)
            asked_for = 0.0
            try:
                answer = self._http.request(method, path, json=body, timeout=left)
                if answer.status_code != 503:
                    return _content(self.url, answer)
                seen, asked_for = _detail(answer), _retry_after(answer)
            except httpx.TransportError as error:
                seen = type(error).__name__
            wait = max(pause * random.uniform(0.5, 1), asked_for)
            if time.monotonic() + wait >= deadline:
                raise UserError(f"{self.url} did not answer within {self._seconds:g} s ({seen}); is it running?")
            time.sleep(wait)
            pause = min(2 * pause, LONGEST_PAUSE)


def _given(selection: Selection) -> dict[str, Any]:
    """What a selection says beyond its defaults, as JSON."""
    fields = {
        "exclude": list(selection.exclude),
        "where": {name: list(values) for name, values in selection.where.items()},
        "at_most": dict(selection.at_most),
        "diversity": selection.diversity,
    }
    only = {} if selection.only is None else {"only": list(selection.only)}
    return {**{name: value for name, value in fields.items() if value}, **only}


def _content(url: str, answer: httpx.Response) -> Any:
    if not answer.is_success:
        raise UserError(f"{url} refuses the request ({answer.status_code}): {_detail(answer)}")
    try:
        return answer.json()
    except ValueError:
        raise UserError(f"{url} does not answer as a recommendation server does; name another") from None


def _detail(answer: httpx.Response) -> str:
    """The server's sentence, or what a proxy before it says."""
    try:
        said = answer.json()
        return str(said.get("detail") or said.get("status"))
    except (ValueError, AttributeError):
        return " ".join(answer.text.split())[:200] or f"status {answer.status_code}"


def _retry_after(answer: httpx.Response) -> float:
    try:
        return min(max(float(answer.headers.get("retry-after", 0)), 0.0), 60.0)
    except ValueError:  # a date
        return 1.0
