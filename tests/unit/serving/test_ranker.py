import asyncio
import threading

import pytest

from recsys.errors import UserError
from recsys.serving.ranker import Ask, Busy, Ranker
from recsys.serving.recommender import Recommendation, Recommender
from recsys.serving.selection import Selection


class Held(Recommender):
    """A recommender that begins no pass before `go` is set, and notes the size of each."""

    go: threading.Event
    passes: list[int]

    def rank(self, histories, k=10, **options):  # type: ignore[no-untyped-def]
        assert self.go.wait(10)
        self.passes.append(len(histories))
        return super().rank(histories, k, **options)


@pytest.fixture
def held(recommender: Recommender) -> Held:
    held = Held(recommender.checkpoint)
    held.go, held.passes = threading.Event(), []
    return held


def test_answers_are_those_of_the_recommender(recommender: Recommender) -> None:
    asks = [Ask([f"i{n}", "i2"], k, mask) for n in range(3, 9) for k in (1, 7) for mask in (True, False)]
    asks.append(Ask(["i1"], 4, False, Selection(exclude=["i2"], only=["i1", "i2", "i9"])))

    async def ask_all() -> list[Recommendation]:
        ranker = Ranker(recommender, batch=5)
        return await asyncio.gather(*(ranker.rank(ask) for ask in asks))

    for ask, answer in zip(asks, asyncio.run(ask_all()), strict=True):
        (expected,) = recommender.rank([ask.history], ask.k, mask_seen=ask.mask_seen, selection=ask.selection)
        assert answer.items == expected.items
        assert answer.scores == pytest.approx(expected.scores, abs=1e-5)
        assert answer.milliseconds > 0 and answer.checkpoint == recommender.checkpoint.hash


def test_requests_that_wait_share_the_next_pass(held: Held) -> None:
    async def ask_all() -> list[Recommendation]:
        ranker = Ranker(held, batch=4)
        first = asyncio.create_task(ranker.rank(Ask(["i1"], 3, True)))
        await asyncio.sleep(0.05)  # its pass has begun
        rest = [asyncio.create_task(ranker.rank(Ask([f"i{n}"], 3, True))) for n in range(2, 8)]
        await asyncio.sleep(0)
        held.go.set()
        return [await task for task in (first, *rest)]

    answers = asyncio.run(ask_all())
    assert held.passes == [1, 4, 2]
    assert [answer.together for answer in answers] == [1, 4, 4, 4, 4, 2, 2]


def test_requests_that_come_together_share_a_pass_however_many(held: Held) -> None:
    async def ask_all() -> list[list[Recommendation]]:
        ranker = Ranker(held, batch=3, waiting=8)
        first = asyncio.create_task(ranker.rank_together([Ask(["i1"], 3, True)]))
        await asyncio.sleep(0.05)  # its pass has begun
        groups = [[Ask([f"i{n}"], n, n % 2 == 0)] * n for n in (1, 2, 5)]
        rest = [asyncio.create_task(ranker.rank_together(group)) for group in groups]
        await asyncio.sleep(0)
        with pytest.raises(Busy, match="8 requests wait already"):
            await ranker.rank(Ask(["i3"], 3, True))
        held.go.set()
        return [await task for task in (first, *rest)]

    first, *groups = asyncio.run(ask_all())
    assert held.passes == [1, 3, 5]
    assert [[len(answer.items) for answer in group] for group in groups] == [[1], [2, 2], [5] * 5]
    assert first[0].waited < groups[0][0].waited < groups[2][0].waited, "those behind wait for those before"


def test_the_event_loop_stays_free_and_a_lost_client_harms_nobody(held: Held) -> None:
    async def ask_both() -> Recommendation:
        ranker = Ranker(held)
        lost = asyncio.create_task(ranker.rank(Ask(["i1"], 3, True)))
        kept = asyncio.create_task(ranker.rank(Ask(["i2"], 3, True)))
        await asyncio.sleep(0.05)
        lost.cancel()
        held.go.set()
        return await kept

    assert len(asyncio.run(ask_both()).items) == 3


def test_an_error_reaches_who_asked_and_the_next_request_is_answered(recommender: Recommender) -> None:
    async def ask_both() -> Recommendation:
        ranker = Ranker(recommender)
        with pytest.raises(UserError, match="k must be between"):
            await ranker.rank(Ask(["i1"], 1000, True))
        return await ranker.rank(Ask(["i1"], 3, True))

    assert len(asyncio.run(ask_both()).items) == 3


def test_more_than_may_wait_are_refused_at_once_and_leave_room_when_they_go(held: Held) -> None:
    async def ask_many() -> list[Recommendation]:
        ranker = Ranker(held, batch=4, waiting=6)
        first = asyncio.create_task(ranker.rank(Ask(["i1"], 3, True)))
        await asyncio.sleep(0.05)  # its pass has begun
        waiting = [asyncio.create_task(ranker.rank(Ask(["i2"], 3, True))) for _ in range(6)]
        await asyncio.sleep(0)
        with pytest.raises(Busy, match="6 requests wait already"):
            await ranker.rank(Ask(["i3"], 3, True))
        for lost in waiting[:4]:
            lost.cancel()
        held.go.set()
        return [await task for task in (first, *waiting[4:])]

    assert len(asyncio.run(ask_many())) == 3
    assert held.passes == [1, 2], "nothing is computed for clients that have gone"
