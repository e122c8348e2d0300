"""What a teacher is read from, wherever it is read."""

from pathlib import Path
from typing import Any

import pytest

from recsys.config import from_dict, to_dict
from recsys.teachers.config import TeacherModelConfig


@pytest.mark.parametrize(
    ("values", "changed"),
    [
        ({"kind": "bigrec", "base": "models/small"}, {"base": "{here}/models/small"}),
        ({"kind": "bigrec", "base": "~/models/small"}, {"base": "{here}/models/small"}),
        ({"kind": "bigrec", "base": "{here}/models/small"}, {}),
        ({"kind": "bigrec", "base": "someone/small"}, {}),
        ({"kind": "bigrec"}, {}),
        ({"kind": "e4srec", "llm": "models/small"}, {"llm": "{here}/models/small"}),
        ({"kind": "e4srec"}, {}),
        ({"kind": "hllm", "user_model": "models/small"}, {"user_model": "{here}/models/small"}),
        ({"kind": "e4srec", "llm": "smollm2"}, {}),
        ({"kind": "e4srec", "llm": "models/a.gguf"}, {"llm": "{here}/models/a.gguf"}),
        ({"kind": "e4srec", "llm": "models/elsewhere.gguf"}, {}),
        ({"kind": "hllm"}, {}),
        ({"kind": "hllm", "item": {"model": "models/small"}}, {}),
        (
            {"kind": "hllm", "item": {"model": "models/small", "max_tokens": 9}, "item_training": "lora"},
            {"item": {"model": "{here}/models/small", "max_tokens": 9}},
        ),
    ],
)
def test_folders_are_found_from_anywhere_and_names_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, values: dict[str, Any], changed: dict[str, Any]
) -> None:
    for folder in ("models/small", "from-scratch", "minilm", "smollm2"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "models" / "a.gguf").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))

    def here(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: here(part) for name, part in value.items()}
        return value.replace("{here}", str(tmp_path)) if isinstance(value, str) else value

    config: Any = from_dict(TeacherModelConfig, here(values))
    assert config.with_absolute_folders() == from_dict(TeacherModelConfig, {**to_dict(config), **here(changed)})
