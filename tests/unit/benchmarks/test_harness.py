import json
import sys
import time
from argparse import Namespace
from pathlib import Path

import pytest

from recsys.errors import UserError


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch, project_root: Path):
    """As a benchmark imports it: its own folder is on the path."""
    monkeypatch.syspath_prepend(str(project_root / "benchmarks"))
    import harness

    return harness


def run(harness, monkeypatch: pytest.MonkeyPatch, *arguments: str, body=lambda options: {"quick": options.quick}):
    monkeypatch.setattr(sys, "argv", ["benchmark", *arguments])
    harness.main("doc", body, minutes=7)


def test_the_last_line_is_the_figures(harness, monkeypatch, capsys) -> None:
    def body(options):
        harness.progress("working")
        assert options.minutes == 7 and 0 < options.seconds_left <= 420
        return {"speedup": 2.5}

    run(harness, monkeypatch, body=body)
    out, err = capsys.readouterr()
    assert json.loads(out) == {"speedup": 2.5}
    assert err == "working\n"


def test_a_users_mistake_is_one_line(harness, monkeypatch, capsys) -> None:
    def body(options):
        raise UserError("name the folder")

    with pytest.raises(SystemExit) as ended:
        run(harness, monkeypatch, body=body)
    assert ended.value.code == 2
    assert capsys.readouterr() == ("", "error: name the folder\n")


def test_data_folder_of_the_command_line_or_the_environment(harness, monkeypatch, tmp_path: Path) -> None:
    (tmp_path / "ml-100k").mkdir()
    folders = []

    def body(options):
        folders.append(options.dataset("ml-100k"))
        return {}

    run(harness, monkeypatch, "--data-dir", str(tmp_path), body=body)
    monkeypatch.setenv("RECSYS_DATA", str(tmp_path))
    run(harness, monkeypatch, body=body)
    assert folders == [tmp_path / "ml-100k"] * 2


def test_data_that_is_not_there_is_said(harness, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="give its folder with --data-dir"):
        harness.Options(quick=False, minutes=1, data_dir=None, args=Namespace()).dataset("ml-100k")
    with pytest.raises(UserError, match="has no data set ml-100k"):
        harness.Options(quick=False, minutes=1, data_dir=tmp_path, args=Namespace()).dataset("ml-100k")


def test_time_limit_must_be_positive(harness, monkeypatch, capsys) -> None:
    with pytest.raises(SystemExit):
        run(harness, monkeypatch, "--minutes", "0")
    assert "--minutes must be more than 0" in capsys.readouterr().err


def test_peak_memory_sees_what_was_freed(harness) -> None:
    with harness.PeakMemory(interval=0.01) as before:
        time.sleep(0.05)
    with harness.PeakMemory(interval=0.01) as memory:
        block = bytearray(200_000_000)
        time.sleep(0.1)
        del block
    assert 0.15 < memory.gb - before.gb < 0.3
