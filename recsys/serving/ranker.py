"""A recommender behind an event loop: answers off the loop, requests that wait together in one pass."""

import asyncio
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from recsys.serving.recommender import Recommendation, Recommender

RETRY_SECONDS = 1
"""When who was refused for want of room should ask again."""


class Busy(Exception):
    """As many requests wait for the model as may."""


class Away(Exception):
    """The model cannot answer now; the message says why."""


@dataclass(frozen=True)
class Ask:
    """One request: a history of ids (not empty), how many items, and whether those seen are left out."""

    history: list[str]
    k: int
    mask_seen: bool


class Ranker:
    """Runs one pass at a time on a thread of its own; whoever comes meanwhile shares the next one.

    A lone request is never held back for company, and under load passes grow up to `batch` requests. (Ray Serve's
    `@serve.batch` with a waiting time of 0 closes each batch before the pass ahead of it has ended: batches of one.)

    Args:
        waiting: requests that may wait for the next passes; whoever comes then is refused at once, because an answer
            that takes longer than its client is willing to wait costs a pass all the same.
    """

    def __init__(self, recommender: Recommender, batch: int = 8, waiting: int = 256) -> None:
        self.recommender = recommender
        self._batch = batch
        self._most = waiting
        self._waiting: deque[tuple[Ask, asyncio.Future[Recommendation]]] = deque()
        self._worker: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ranker")

    async def rank(self, ask: Ask) -> Recommendation:
        """Answer a request.

        Raises:
            UserError: see `Recommender.rank`; the error of one request is that of all in its pass.
            Busy: too many wait already.
        """
        if len(self._waiting) >= self._most:
            raise Busy(f"{self._most} requests wait already")
        future = asyncio.get_running_loop().create_future()
        self._waiting.append((ask, future))
        if self._worker is None:
            self._worker = asyncio.create_task(self._work())
        return await future

    def rank_now(self, asks: list[Ask]) -> list[Recommendation]:
        """Answer requests in one pass, on this thread."""
        answers: dict[int, Recommendation] = {}
        for mask_seen in {ask.mask_seen for ask in asks}:
            rows = [row for row, ask in enumerate(asks) if ask.mask_seen == mask_seen]
            started = time.perf_counter()
            ranked = self.recommender.rank(
                [asks[row].history for row in rows], max(asks[row].k for row in rows), mask_seen=mask_seen
            )
            milliseconds = 1000 * (time.perf_counter() - started)
            for row, one in zip(rows, ranked, strict=True):
                k = asks[row].k
                answers[row] = replace(
                    one, items=one.items[:k], scores=one.scores[:k], milliseconds=milliseconds, together=len(rows)
                )
        return [answers[row] for row in range(len(asks))]

    async def facts(self) -> dict[str, Any]:
        """Hash and kind of the checkpoint, and how many numbers it has."""
        loaded = self.recommender.checkpoint
        parameters = sum(parameter.numel() for parameter in loaded.model.parameters())
        return {"checkpoint": loaded.hash, "kind": loaded.info["kind"], "parameters": parameters}

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(self._batch, len(self._waiting)))]
            batch = [(ask, future) for ask, future in batch if not future.done()]  # the others' clients have gone
            if not batch:
                continue
            running = loop.run_in_executor(self._thread, self.rank_now, [ask for ask, _ in batch])
            await asyncio.wait([running])
            error = running.exception()
            for row, (_, future) in enumerate(batch):
                if future.done():
                    continue
                if error is None:
                    future.set_result(running.result()[row])
                else:
                    future.set_exception(error)
        self._worker = None
