"""E4SRec on tiny decoders with random weights: one pass says what row by row would, whatever the decoder."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from ray_jobs.settings import TeacherSettings
from recsys.checkpoint import load_checkpoint, save_checkpoint
from recsys.config import from_dict, to_dict
from recsys.data.prepared import PreparedDataset
from recsys.errors import UserError
from recsys.students.config import SASRecConfig
from recsys.students.sasrec import SASRec
from recsys.teachers.compression import compressed
from recsys.teachers.config import (
    CompressionConfig,
    E4SRecConfig,
    HLLMConfig,
    LowRankConfig,
    SignalsConfig,
    TeacherConfig,
)
from recsys.teachers.e4srec import E4SRec

SMALL: dict[str, Any] = {"kind": "e4srec", "width": 16, "heads": 2, "layers": 2, "dropout": 0.1}
WORDS = ("[UNK]", "given", "history", "predict", "response", ":")
FAMILIES = ("llama", "qwen2", "qwen3", "mistral", "gemma", "gemma2")


def ids(items: int = 60, width: int = 12) -> torch.Tensor:
    table = 0.3 * torch.randn(items + 1, width, generator=torch.Generator().manual_seed(5))
    table[0] = 0
    return table


def build(**options: object) -> E4SRec:
    torch.manual_seed(3)
    return E4SRec.build(E4SRecConfig(**{**SMALL, **options}), ids()).eval()


def base_model(folder: Path, family: str) -> str:
    """A tiny decoder with random weights and a tokenizer of a few words, saved as transformers does."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

    config = AutoConfig.for_model(
        family, vocab_size=len(WORDS), hidden_size=16, intermediate_size=24, num_hidden_layers=3, head_dim=8,
        num_attention_heads=2, num_key_value_heads=1, pad_token_id=None, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(7)
    AutoModel.from_config(config).save_pretrained(folder)
    words = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]").save_pretrained(folder)
    return str(folder)


@pytest.fixture
def dataset(random_dataset: Callable[..., PreparedDataset]) -> PreparedDataset:
    return random_dataset()


def row_by_row(model: E4SRec, items: torch.Tensor) -> torch.Tensor:
    """[instruction ; items ; response] one prefix at a time, read at its last vector."""
    rows = []
    for history in items:
        for length in range(1, len(history) + 1):
            entered = model.enter(model.ids[history[:length]])
            parts = [entered]
            if model.instruction is not None:
                parts.insert(0, model.instruction())
            if model.response is not None:
                parts.append(model.response())
            states = model.llm(inputs_embeds=torch.cat(parts)[None]).last_hidden_state
            rows.append(model.read_out(states[0, -1], model.item_vectors()))
    return torch.stack(rows).view(*items.shape, -1)


@pytest.mark.parametrize("head", ["dot", "linear"])
@pytest.mark.parametrize(("instruction", "response"), [(4, 0), (0, 0), (3, 2)])
def test_one_pass_is_row_by_row(head: str, instruction: int, response: int) -> None:
    model = build(head=head, instruction_vectors=instruction, response_vectors=response)
    items = torch.randint(1, 61, (3, 6), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = row_by_row(model, items)
        torch.testing.assert_close(model.hidden(items), expected, atol=1e-5, rtol=1e-4)
        padded = functional.pad(items, (0, 3))
        torch.testing.assert_close(model.hidden(padded)[:, :6], expected, atol=1e-5, rtol=1e-4)
        lengths = torch.tensor([2, 6, 4])
        last = expected[torch.arange(3), lengths - 1]
        torch.testing.assert_close(model.query(padded, lengths), last, atol=1e-5, rtol=1e-4)


def test_heads() -> None:
    dot, linear = build(), build(head="linear")
    assert torch.equal(dot.item_vectors(), ids()) and dot.hidden(torch.ones(1, 1, dtype=torch.int64)).shape[-1] == 12
    vectors = linear.item_vectors()
    assert vectors.shape == (61, 16) and not vectors[0].any()
    states = torch.randn(2, 16)
    torch.testing.assert_close((linear.read_out(states, vectors) @ vectors.T)[:, 1:], states @ linear.score().T)
    assert all(not name.startswith("ids") for name, _ in dot.named_parameters()), "the ids are frozen"


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_of_decoders_is_read_cut_and_compressed(
    dataset: PreparedDataset, tmp_path: Path, family: str
) -> None:
    options = {
        "llm": base_model(tmp_path / "base", family),
        "instruction": "given history predict",
        "response": "response :",
    }
    model = build(**options)
    counts = model.config.instruction_vectors, model.config.response_vectors
    # transformers reads the words by a Qwen2 tokenizer where the model is one, whatever was saved.
    assert counts == (3, 2) or (family == "qwen2" and counts[1])
    items = torch.randint(1, 61, (2, 5), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(model.hidden(items), row_by_row(model, items), atol=1e-5, rtol=1e-4)
    cut = model.cut([1, 3])
    save_checkpoint(str(tmp_path / "cut"), cut, dataset)
    for file in (tmp_path / "base").iterdir():
        file.unlink()
    loaded = load_checkpoint(tmp_path / "cut").model
    assert torch.equal(loaded.hidden(items), cut.hidden(items))
    cut.decoder.save_pretrained(tmp_path / "plain")
    from transformers import AutoConfig

    assert AutoConfig.from_pretrained(tmp_path / "plain").num_hidden_layers == 2
    small = compressed(cut, CompressionConfig(neurons=0.5, low_rank=LowRankConfig(), weights="int8"))
    save_checkpoint(str(tmp_path / "small"), small, dataset)
    with torch.inference_mode():
        assert torch.equal(load_checkpoint(tmp_path / "small").model.hidden(items), small.hidden(items))


def test_a_fresh_start_is_the_pretrained_layers(tmp_path: Path) -> None:
    model = build(llm=base_model(tmp_path / "base", "llama"), instruction="given history")
    untouched = model.cut(2)
    with torch.no_grad():
        for parameter in model.llm.parameters():
            parameter.add_(1.0)
    fresh = model.fresh(2)
    for name, tensor in untouched.llm.state_dict().items():
        assert torch.equal(fresh.llm.state_dict()[name], tensor), name
    assert torch.equal(fresh.ids, model.ids) and fresh.config.llm_config == untouched.config.llm_config
    with pytest.raises(UserError, match="a pretrained decoder keeps its width"):
        model.fresh(2, width=32)


def test_adapters_train_alone_and_are_merged_when_saved(dataset: PreparedDataset, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    plain = build(llm=base_model(tmp_path / "base", "llama"), instruction="given history")
    model = build(llm=str(tmp_path / "base"), instruction="given history", lora={"rank": 2})
    items = torch.randint(1, 61, (2, 5), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(model.hidden(items), plain.hidden(items))
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert {name.split(".")[0] for name in trained} == {"llm", "enter", "score"}
    assert all("lora_" in name for name in trained if name.startswith("llm"))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    state = model.finished(model.export_state(), dataset)
    save_checkpoint(str(tmp_path / "teacher"), model, dataset, state=state)
    loaded = load_checkpoint(tmp_path / "teacher").model
    torch.testing.assert_close(loaded.hidden(items), model.hidden(items), atol=1e-4, rtol=1e-4)
    assert_peft_reads(tmp_path / "teacher", tmp_path / "base", model.llm)
    assert not torch.allclose(loaded.hidden(items), plain.hidden(items), atol=1e-3)
    cut = model.cut(2)
    torch.testing.assert_close(cut.hidden(items), model.readouts(items, [2])[2])


def assert_peft_reads(checkpoint: Path, base: Path, adapted: Any) -> None:
    """The adapters beside the merged weights, on the base model, compute what was trained."""
    import peft
    from transformers import AutoModel

    loaded = peft.PeftModel.from_pretrained(AutoModel.from_pretrained(base), str(checkpoint / "adapter"))
    vectors = torch.randn(2, 5, adapted.config.hidden_size)
    expected = adapted(inputs_embeds=vectors).last_hidden_state
    torch.testing.assert_close(loaded(inputs_embeds=vectors).last_hidden_state, expected)
    assert loaded.peft_config["default"].base_model_name_or_path == str(base)


def test_a_teacher_is_built_on_a_student_and_ranks(dataset: PreparedDataset, tmp_path: Path) -> None:
    pytest.importorskip("deepspeed")
    student = SASRec(SASRecConfig(width=8, heads=1, blocks=1, max_positions=8), num_items=dataset.num_items)
    save_checkpoint(str(tmp_path / "small"), student, dataset)
    config = E4SRecConfig(**SMALL, ids_from="small")
    inputs = E4SRec.prepare(config, dataset, cache="", student=lambda name: str(tmp_path / name))
    objective = E4SRec.objective(config, dataset, inputs, seed=0)
    assert isinstance(objective.model, E4SRec)
    assert torch.equal(objective.model.ids[1:], student.item_vectors()[1:])
    rankings = objective.model.ready(SignalsConfig(k=5, dtype="fp32"), "cpu").rank(dataset, dataset.rows("test"))
    assert rankings.items.shape == (12, 5)
    with pytest.raises(UserError, match=r"student 'other' has no checkpoint in .*; run distill --student other first"):
        E4SRec.prepare(
            E4SRecConfig(**SMALL, ids_from="other"), dataset, cache="", student=lambda name: str(tmp_path / name)
        )


def test_a_student_of_another_dataset_is_refused(
    dataset: PreparedDataset, random_dataset: Callable[..., PreparedDataset], tmp_path: Path
) -> None:
    student = SASRec(SASRecConfig(width=8, heads=1, blocks=1, max_positions=8), num_items=dataset.num_items)
    save_checkpoint(str(tmp_path / "small"), student, dataset)
    with pytest.raises(UserError, match=r"student 'small' was trained on dataset .* run distill --student small again"):
        E4SRec.objective(
            E4SRecConfig(**SMALL, ids_from="small"), random_dataset(seed=9), {"ids": str(tmp_path / "small")}, seed=0
        )


def test_configuration() -> None:
    assert isinstance(from_dict(TeacherConfig, {"width": 32}), HLLMConfig), "hllm where no kind is given"
    config = from_dict(TeacherConfig, {"kind": "e4srec", "layers": 3})
    assert from_dict(TeacherConfig, to_dict(config)) == config == E4SRecConfig(kind="e4srec", layers=3)
    for values, message in [
        ({"width": 20, "heads": 4}, "multiple of twice the heads"),
        ({"lora": {}}, "lora adapts a pretrained model"),
        ({"response": "Response:"}, "set response_vectors"),
        ({"witdh": 3}, "did you mean width"),
    ]:
        with pytest.raises(UserError, match=message):
            from_dict(TeacherSettings, {"model": {"kind": "e4srec", **values}})
