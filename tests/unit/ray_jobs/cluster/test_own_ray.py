"""What is said and given back of a job on a Ray of its own; Ray and the job are made up."""

import contextlib
import shlex
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ray_jobs.cluster import own_ray

Say = Callable[[int | BaseException], list[Any]]


@pytest.fixture
def ending(monkeypatch: pytest.MonkeyPatch) -> Say:
    """Let jobs end in a way; gives what happens, in order."""

    def end(way: int | BaseException) -> list[Any]:
        happened: list[Any] = []

        @contextlib.contextmanager
        def local_ray() -> Iterator[str]:
            happened.append("up")
            try:
                yield "ray"
            finally:
                happened.append("down")

        def submit(ray: str, entrypoint: str, *, heartbeat: bool) -> int:
            happened.append((shlex.split(entrypoint), heartbeat))
            if isinstance(way, BaseException):
                raise way
            return way

        monkeypatch.setattr(own_ray, "local_ray", local_ray)
        monkeypatch.setattr(own_ray, "submit", submit)
        return happened

    return end


@pytest.mark.parametrize(("code", "word"), [(0, "done"), (3, "ended")])
def test_its_exit_code_is_that_of_the_job(
    ending: Say, code: int, word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    happened = ending(code)
    assert own_ray.run_alone("pipeline", ["--storage", "/a b"]) == code
    command = [sys.executable, "-u", "-m", "ray_jobs.pipeline", "--storage", "/a b"]
    assert happened == ["up", (command, True), "down"]
    first, second, last = capsys.readouterr().out.splitlines()
    assert first == "starting a local Ray" and second.startswith("local Ray is up after")
    assert last.startswith(f"{word} after ")


def test_ctrl_c_is_the_end_of_what_has_none_of_its_own(ending: Say, capsys: pytest.CaptureFixture[str]) -> None:
    happened = ending(KeyboardInterrupt())
    assert own_ray.run_alone("serve", [], until_stopped=True) == 0
    assert happened[-1] == "down" and capsys.readouterr().out.splitlines()[-1] == "stopped"
    with pytest.raises(KeyboardInterrupt):
        own_ray.run_alone("pipeline", [])
    assert happened[-1] == "down"


def test_a_server_that_ends_by_itself_says_nothing_of_time(ending: Say, capsys: pytest.CaptureFixture[str]) -> None:
    happened = ending(1)
    assert own_ray.run_alone("serve", [], until_stopped=True) == 1
    assert happened[1][1] is False, "a server is silent when nobody asks"
    assert len(capsys.readouterr().out.splitlines()) == 2
