"""What a replica knows of the experiment while the actor that keeps it answers, and while it does not. No Ray."""

import asyncio
import gc
import threading
import time
from collections.abc import Callable, Generator
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import RayActorError

from ray_jobs.serving import experiment
from ray_jobs.serving.experiment import Followed
from ray_jobs.serving.keeper import Keeper
from recsys.errors import UserError
from recsys.serving.config import ServingConfig
from recsys.serving.experiment import Change, Experiment
from recsys.serving.ranker import Away
from recsys.settings import Settings


class Answer:
    """What a handle gives, for who waits in a thread and for who awaits it."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self._work = work

    def result(self, timeout_s: float) -> Any:
        return asyncio.run(self._work())

    def __await__(self) -> Generator[Any, None, Any]:
        return self._work().__await__()

    def cancel(self) -> None:
        pass


def handle(keeper: Keeper, lost: threading.Event | None = None) -> Any:
    async def work(method: str, arguments: Any) -> Any:
        if lost is not None and lost.is_set():
            raise RayActorError
        return await getattr(keeper, method)(*arguments)

    def remote(method: str) -> SimpleNamespace:
        return SimpleNamespace(remote=lambda *arguments: Answer(lambda: work(method, arguments)))

    return SimpleNamespace(current=remote("current"), change=remote("change"))


def keeper_of(settings: Settings) -> Keeper:
    return Keeper(settings.serving.experiment, settings.layout.experiment)


@pytest.fixture
def settings(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr(experiment, "POLL_SECONDS", 0.01)
    return Settings(name="p", storage=str(tmp_path), serving=ServingConfig(shadow=0.5))


def wait_for(seen: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not seen():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_all_replicas_follow_and_one_that_starts_later_knows(settings: Settings) -> None:
    keeper = keeper_of(settings)
    first, second = (Followed(handle(keeper), settings.serving.experiment) for _ in range(2))
    said = asyncio.run(first.change(Change(salt="t")))
    assert first.current == said and said.version == 2
    wait_for(lambda: second.current == said)
    assert Followed(handle(keeper_of(settings)), settings.serving.experiment).current == said, (
        "a new actor reads the file"
    )


def test_while_the_actor_is_lost_the_last_state_stays_and_nothing_is_changed(settings: Settings) -> None:
    lost, keeper = threading.Event(), keeper_of(settings)
    followed = Followed(handle(keeper, lost), settings.serving.experiment)
    said = asyncio.run(followed.change(Change(salt="t")))
    lost.set()
    with pytest.raises(Away, match=r"the experiment cannot be changed now \(RayActorError\); try again"):
        asyncio.run(followed.change(Change(salt="u")))
    assert followed.current == said
    asyncio.run(keeper.change(Change(salt="v")))
    lost.clear()
    wait_for(lambda: followed.current.salt == "v")


def test_a_mistake_is_one_sentence_and_does_not_reach_the_actor(settings: Settings) -> None:
    followed = Followed(handle(keeper_of(settings)), settings.serving.experiment)
    with pytest.raises(UserError, match=r"^the shares of the split must add up to 1"):
        asyncio.run(followed.change(Change(split={"student": 0.5})))


def test_without_the_actor_a_replica_starts_with_what_the_settings_say(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = threading.Event()
    lost.set()
    configured: Experiment = settings.serving.experiment
    assert Followed(handle(keeper_of(settings), lost), configured).current == configured


def test_a_replica_that_ends_asks_no_more(settings: Settings) -> None:
    def threads() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread.name == "experiment"]

    gc.collect()
    wait_for(lambda: not threads())
    followed = Followed(handle(keeper_of(settings)), settings.serving.experiment)
    assert len(threads()) == 1
    del followed
    wait_for(lambda: not threads())
