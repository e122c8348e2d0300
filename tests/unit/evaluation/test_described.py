from typing import Any

import pytest

from recsys.evaluation.described import describe
from recsys.evaluation.results import Result


def result(role: str, kind: str, **settings: Any) -> Result:
    return Result(
        name="name", role=role, kind=kind, key="", metrics={}, rows=1, split="test", protocol="", dataset="",
        fingerprint="", seed=0, checkpoint_hash=None, parameters={}, training={"settings": settings}, seconds=0.0,
        date="", versions={}, hardware={},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "model", "sentence"),
    [
        ("bigrec", {"base": "from-scratch"}, "BIGRec, the teacher, its language model from scratch"),
        ("bigrec", {"base": "some/model"}, "BIGRec on some/model, the teacher"),
        ("bigrec", {"base": "/models/Some-0.5B"}, "BIGRec on Some-0.5B, the teacher"),
        ("hllm", {"user_model": "from-scratch"}, "HLLM, the teacher, its user model from scratch"),
        (
            "hllm",
            {"user_model": "from-scratch", "item": {"model": "smollm2"}},
            "HLLM, the teacher, its user model from scratch, "
            "titles read by SmolLM2-135M-Instruct (4-bit copy, dequantised)",
        ),
        (
            "hllm",
            {"user_model": "~/some-Q8_0.gguf", "item": {"model": "minilm"}},
            "HLLM on some-Q8_0.gguf (dequantised), the teacher",
        ),
        ("e4srec", {"llm": "smollm2"}, "E4SRec on SmolLM2-135M-Instruct (4-bit copy, dequantised), the teacher"),
        (
            "e4srec",
            {"llm": "smollm2", "base_layers": 6},
            "E4SRec on SmolLM2-135M-Instruct (4-bit copy, dequantised), the teacher, 6 of 30 layers",
        ),
        (
            "e4srec",
            {"llm": "smollm2", "base_layers": [1, 30]},
            "E4SRec on SmolLM2-135M-Instruct (4-bit copy, dequantised), the teacher, 2 of 30 layers",
        ),
        ("bigrec", {"base": "some/model", "base_layers": 1}, "BIGRec on some/model, the teacher, 1 layer of it"),
        ("e4srec", {"llm": "from-scratch"}, "E4SRec, the teacher, its language model from scratch"),
    ],
)
def test_a_teacher_is_called_what_it_is_made_of(kind: str, model: dict, sentence: str) -> None:
    assert describe(result("teacher", kind, model=model)) == sentence


def test_a_student_is_called_what_it_learns_from() -> None:
    loss = {"kind": "softmax"}
    assert describe(result("student", "sasrec", loss=loss)) == "sasrec, alone, softmax loss"
    assert describe(result("student", "sasrec", loss=loss, distillation={})) == "sasrec, alone, softmax loss"
    taught = result("student", "sasrec", loss=loss, distillation={"ranking": {}})
    assert describe(taught) == "sasrec, distilled, softmax loss"
    from_rules = result("student", "gru4rec", loss=loss, distillation={"ranking": {}, "signals": "rules"})
    assert describe(from_rules) == "gru4rec, distilled from the sequential rules, softmax loss"
