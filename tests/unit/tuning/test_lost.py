"""Why a trial was lost, from what Ray says of it."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from ray_jobs.sweeps.trials import _why_lost

_DIED = "The actor died unexpectedly before finishing this task.\n\tclass_name: ImplicitFunc\n"


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (
            "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR",
            "was killed or crashed",
        ),
        ("Worker exit detail: Task was killed due to the node running low on memory.", "had no memory left"),
        ("The actor died because its node has died. Node Id: 0a", "its node was lost"),
        ("something else", "something else"),
    ],
)
def test_the_last_failure_is_told_in_a_line(said: str, reason: str, tmp_path: Path) -> None:
    file = tmp_path / "error.txt"
    file.write_text(f"Failure # 1 (occurred at x)\nits node has died\nFailure # 2 (occurred at y)\n{_DIED}{said}\n")
    told = _why_lost(SimpleNamespace(error_file=str(file)))
    assert reason in told and "\n" not in told


def test_without_a_word_from_ray(tmp_path: Path) -> None:
    for missing in (None, str(tmp_path / "none.txt")):
        assert _why_lost(SimpleNamespace(error_file=missing)) == "its process was lost"
