"""`make` and the demo, as a user runs them."""

import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from recsys.ports import free_port
from tests.integration.commands import ROOT, DemoRuns, Make


@pytest.fixture(scope="session")
def make(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Make]:
    stamp = tmp_path_factory.mktemp("make") / "installed"
    stamp.touch()
    made = Make(
        {
            **{name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MAKE", "MFLAGS"))},
            "VENV": sys.prefix,
            "INSTALLED": str(stamp),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }
    )
    yield made
    made.close()


@pytest.fixture(scope="session")
def demo(make: Make, tmp_path_factory: pytest.TempPathFactory) -> DemoRuns:
    """One project that all tests of finished things share; its making is itself tested (test_demo.py)."""
    storage = tmp_path_factory.mktemp("demo")
    arguments = ("demo", "DATA=fixture", f"STORAGE={storage}", f"ARGS=serving.port={free_port()}")
    first = make.start(*arguments)
    first.wait_for("[5/8] distill")
    first.kill(signal.SIGKILL)
    first.end(30)
    outputs = []
    for _ in range(2):
        command = make.start(*arguments)
        assert command.end() == 0, command.output
        outputs.append(command.output)
    return DemoRuns(storage, first.output, *outputs)


@pytest.fixture(scope="session")
def readme() -> dict[str, list[str]]:
    """The code blocks of README.md marked `<!-- tested: NAME -->`, by name."""
    blocks: dict[str, list[str]] = {}
    for name, code in re.findall(
        r"<!-- tested: (\w+) -->\n```\w+\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL
    ):
        blocks.setdefault(name, []).append(code)
    return blocks
