"""The command line of promotion, and its exit status."""

import argparse

import pytest

from ray_jobs import promote
from recsys.errors import UserError
from recsys.settings import Settings
from recsys.stages import promotion
from recsys.stages.promotion import Outcome


def parse(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    promote.add_arguments(parser)
    return parser.parse_args(arguments)


def test_a_gate_that_does_not_hold_is_a_line_and_status_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[object] = []

    def answer(settings: Settings, student: str | None = None, *, alias: str) -> Outcome:
        asked.append((student, alias))
        return Outcome(len(asked) > 1, "so it is")

    monkeypatch.setattr(promotion, "promote", answer)
    monkeypatch.setattr(promotion, "roll_back", answer)
    with pytest.raises(SystemExit, match="1"):
        promote.run(Settings(), parse("--student", "a", "--alias", "@next"))
    promote.run(Settings(), parse("--rollback"))
    assert asked == [("a", "next"), (None, "champion")]
    assert capsys.readouterr().out == "promote: so it is\n" * 2
    with pytest.raises(UserError, match="the alias 'a b' cannot be a name"):
        promote.run(Settings(), parse("--alias", "a b"))
