"""A recommender behind an event loop: answers off the loop, requests that wait together in one pass."""

import asyncio
import itertools
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from recsys.serving.recommender import Recommendation, Recommender
from recsys.serving.selection import Selection

RETRY_SECONDS = 1
"""When who was refused for want of room should ask again."""
WAITING = 256
"""Requests that may wait for the next passes of a model, unless it is told otherwise."""


class Busy(Exception):
    """As many requests wait for the model as may."""


class Away(Exception):
    """The model cannot answer now; the message says why."""


class Late(Away):
    """The model did not answer in time."""


@dataclass(frozen=True)
class Ask:
    """One request: a history of ids (not empty), how many items, whether those seen are left out, and what may be
    recommended (ids, which every arm looks up: one may know items that another does not)."""

    history: list[str]
    k: int
    mask_seen: bool
    selection: Selection | None = None


_Group = tuple[Sequence[Ask], float, asyncio.Future[list[Recommendation]]]
"""Requests of one caller, when they came (`time.perf_counter`), and where their answers go."""


class Ranker:
    """Runs one pass at a time on a thread of its own; whoever comes meanwhile shares the next one.

    A lone request is never held back for company, and under load passes grow up to `batch` requests. (Ray Serve's
    `@serve.batch` with a waiting time of 0 closes each batch before the pass ahead of it has ended: batches of one.)

    Args:
        waiting: requests that may wait for the next passes; whoever comes then is refused at once, because an answer
            that takes longer than its client is willing to wait costs a pass all the same.
    """

    def __init__(self, recommender: Recommender, batch: int = 8, waiting: int = WAITING) -> None:
        self.recommender = recommender
        self._batch = batch
        self._most = waiting
        self._waiting: deque[_Group] = deque()
        self._queued = 0
        self._worker: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ranker")

    async def rank(self, ask: Ask) -> Recommendation:
        """Answer a request; see `rank_together`."""
        return (await self.rank_together([ask]))[0]

    async def rank_together(self, asks: Sequence[Ask]) -> list[Recommendation]:
        """Answer requests in one pass, however many they are.

        Raises:
            UserError: see `Recommender.rank`; the error of one request is that of all in its pass.
            Busy: too many wait already.
        """
        if self._queued and self._queued + len(asks) > self._most:
            raise Busy(f"{self._queued} requests wait already")
        future = asyncio.get_running_loop().create_future()
        self._waiting.append((asks, time.perf_counter(), future))
        self._queued += len(asks)
        if self._worker is None:
            self._worker = asyncio.create_task(self._work())
        return await future

    def rank_now(self, asks: list[Ask]) -> list[Recommendation]:
        """Answer requests in one pass, on this thread."""
        started = time.perf_counter()
        ranked = self.recommender.rank(
            [ask.history for ask in asks],
            [ask.k for ask in asks],
            mask_seen=[ask.mask_seen for ask in asks],
            selection=[ask.selection for ask in asks],
        )
        milliseconds = 1000 * (time.perf_counter() - started)
        return [replace(one, milliseconds=milliseconds, together=len(asks)) for one in ranked]

    async def facts(self) -> dict[str, Any]:
        """Hash and kind of the checkpoint, and how many numbers it has."""
        loaded = self.recommender.checkpoint
        parameters = sum(parameter.numel() for parameter in loaded.model.parameters())
        return {"checkpoint": loaded.hash, "kind": loaded.info["kind"], "parameters": parameters}

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            groups = self._next_pass()
            if not groups:
                continue
            begun = time.perf_counter()
            running = loop.run_in_executor(self._thread, self.rank_now, [ask for asks, _, _ in groups for ask in asks])
            await asyncio.wait([running])
            error = running.exception()
            answers = iter([] if error else running.result())
            for asks, came, future in groups:
                own = list(itertools.islice(answers, len(asks)))
                if future.done():
                    continue
                if error is None:
                    future.set_result([replace(one, waited=1000 * (begun - came)) for one in own])
                else:
                    future.set_exception(error)
        self._worker = None

    def _next_pass(self) -> list[_Group]:
        """Groups that wait, up to a full batch and at least one; without those whose clients have gone."""
        groups, size = [], 0
        while self._waiting and (not size or size + len(self._waiting[0][0]) <= self._batch):
            group = self._waiting.popleft()
            self._queued -= len(group[0])
            if not group[2].done():
                groups.append(group)
                size += len(group[0])
        return groups
