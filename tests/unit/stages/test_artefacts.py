"""Stages keep what is whole, make again what is damaged, and do not work on the same thing at a time."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from ray_jobs import cli
from recsys import locks, storage
from recsys.stages.artefacts import alone, is_current, verify_hashes


@pytest.fixture
def artefact(tmp_path: Path) -> str:
    uri = str(tmp_path / "artefact")
    with storage.new_artifact(uri, key="a") as directory:
        (directory / "model.safetensors").write_bytes(b"weights")
    return uri


def test_current_means_complete_and_of_the_same_key(artefact: str) -> None:
    assert is_current(artefact, "a")
    assert not is_current(artefact, "b")
    assert not is_current(artefact + "-2", "a")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda file: file.write_bytes(b"weight"), "model.safetensors has 6 bytes instead of 7"),
        (lambda file: file.unlink(), "model.safetensors is missing"),
    ],
)
def test_what_is_damaged_is_made_again(
    artefact: str, damage: Callable[[Path], None], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(Path(artefact, "model.safetensors"))
    assert not is_current(artefact, "a")
    assert capsys.readouterr().out == f"{artefact} is damaged: {said}; making it again\n"


def test_hashes_are_compared_where_asked_for(artefact: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path(artefact, "model.safetensors").write_bytes(b"WEIGHTS")
    assert is_current(artefact, "a")
    with verify_hashes(False):
        assert is_current(artefact, "a")
    with verify_hashes(True):
        assert not is_current(artefact, "a")
    assert "model.safetensors does not match its checksum" in capsys.readouterr().out


def test_every_job_takes_verify(artefact: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path(artefact, "model.safetensors").write_bytes(b"WEIGHTS")
    found = []
    for options in ([], ["--verify"]):
        monkeypatch.setattr("sys.argv", ["job", "--storage", str(tmp_path / "root"), *options])
        cli.run_job(None, lambda settings, args: found.append(is_current(artefact, "a")), ray=False)
    assert found == [True, False]


def test_one_makes_it_and_the_other_finds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "POLL", 0.01)
    uri, made, begun = str(tmp_path / "students" / "a"), [], threading.Event()

    @alone(lambda name, **_: (uri, f"student {name}"))
    def make(name: str, *, wait: threading.Event | None = None) -> str:
        if is_current(uri, "k"):
            return "kept"
        begun.set()
        if wait:
            assert wait.wait(30)
        with storage.new_artifact(uri, key="k") as directory:
            (directory / "x").write_text(name)
        made.append(name)
        return "made"

    finish, results = threading.Event(), {}
    first = threading.Thread(target=lambda: results.update(first=make("a", wait=finish)))
    first.start()
    assert begun.wait(30)
    second = threading.Thread(target=lambda: results.update(second=make("a")))
    second.start()
    finish.set()
    for each in (first, second):
        each.join()
    assert (results, made) == ({"first": "made", "second": "kept"}, ["a"])
    assert [path.name for path in (tmp_path / "students").iterdir()] == ["a"]


def test_a_lock_leaves_no_folder_behind(tmp_path: Path) -> None:
    with locks.hold(str(tmp_path / "demo" / "students" / "a"), "student a"):
        assert (tmp_path / "demo" / "students").is_dir()
    assert list(tmp_path.iterdir()) == []
