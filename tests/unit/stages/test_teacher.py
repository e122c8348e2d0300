"""What a teacher needs first, and what of its weights is stored as it was given."""

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from recsys.checkpoint import load_checkpoint
from recsys.config import from_dict
from recsys.errors import UserError
from recsys.settings import Settings
from recsys.stages import teacher as stage
from recsys.teachers.config import E4SRecConfig
from recsys.teachers.e4srec import E4SRec

SASREC: dict[str, Any] = {"model": {"kind": "sasrec", "width": 8}}


def settings_of(model: dict[str, Any], students: dict[str, Any]) -> Settings:
    return from_dict(Settings, {"name": "p", "students": students, "teacher": {"model": model}})


@pytest.mark.parametrize(
    ("students", "message"),
    [
        ({"b": SASREC}, "teacher.model.ids_from names student 'a', but the configuration has: b"),
        ({"a": {**SASREC, "distillation": {}}}, "student 'a' learns from the teacher itself"),
        ({"a": {"model": {"kind": "slmrec", "layers": 1}}}, "student 'a' learns from the teacher itself"),
    ],
)
def test_it_is_built_from_a_student_that_does_not_need_it(students: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        stage.find_needed_students(settings_of({"kind": "e4srec", "ids_from": "a"}, students))


def test_only_what_it_is_built_from_is_needed() -> None:
    students = {"a": SASREC, "b": SASREC}
    assert stage.find_needed_students(settings_of({"kind": "e4srec", "ids_from": "b"}, students)) == ["b"]
    assert stage.find_needed_students(settings_of({"kind": "hllm"}, students)) == []


def test_trained_weights_are_stored_in_fp32_and_what_was_given_as_it_was(
    random_dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = from_dict(Settings, {"name": "p", "storage": str(tmp_path)})
    dataset = random_dataset()
    torch.manual_seed(0)
    model = E4SRec.build(E4SRecConfig(kind="e4srec", width=16, heads=2, layers=1), torch.randn(61, 8))
    given = {name for name, _ in model.named_buffers()} - model.computed_buffers
    trained = {name: tensor.bfloat16() + 1 for name, tensor in model.state_dict().items()}
    monkeypatch.setattr(stage, "build", lambda *_: (SimpleNamespace(model=model), dataset, None))
    result = SimpleNamespace(state=trained, progress=SimpleNamespace(describe=dict))
    teacher = from_dict(Settings, {"teacher": {"model": {"kind": "e4srec", "ids_from": "a"}}}).teacher
    stage.finish(teacher, settings.layout, {}, None, partial(lambda: result), settings.layout.teacher, "key", {})
    stored = load_checkpoint(settings.layout.teacher).model.state_dict()
    assert given & stored.keys()
    for name, tensor in stored.items():
        expected = model.state_dict()[name] if name in given else trained[name].float()
        assert tensor.dtype == expected.dtype and torch.equal(tensor, expected), name
