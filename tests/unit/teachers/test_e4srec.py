"""E4SRec on tiny decoders with random weights: one pass says what row by row would, whatever the decoder."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional

from recsys.checkpoint import load_checkpoint, save_checkpoint
from recsys.config import from_dict, to_dict
from recsys.data.prepared import PreparedDataset
from recsys.decoders.compression import compress
from recsys.decoders.config import CompressionConfig, LowRankConfig
from recsys.decoders.item_encoder import TextEmbeddings
from recsys.errors import UserError
from recsys.histories import Histories
from recsys.losses.config import AlignmentConfig, RecommendationLossConfig
from recsys.settings import TeacherSettings
from recsys.signals.config import SignalsConfig
from recsys.students.config import SASRecConfig, SLMRecConfig
from recsys.students.sasrec import SASRec
from recsys.students.slmrec import build_slmrec
from recsys.teachers.config import E4SRecConfig, HLLMConfig, TeacherModelConfig
from recsys.teachers.e4srec import E4SRec
from recsys.teachers.hllm import HLLM
from recsys.teachers.hllm_training import hllm_objective
from recsys.teachers.layered import LayeredTeacher
from recsys.training.config import TrainingConfig
from recsys.training.objective import Objective

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


def says_the_same(folder: Path, model: LayeredTeacher, *, layers: int) -> bool:
    """Whether the transformers model in a folder gives the states of a decoder, and is of so many layers."""
    from transformers import AutoModel

    plain = AutoModel.from_pretrained(folder).eval()
    inputs = torch.randn(2, 5, model.width)
    with torch.no_grad():
        states = [decoder(inputs_embeds=inputs).last_hidden_state for decoder in (plain, model.decoder)]
    return plain.config.num_hidden_layers == len(plain.layers) == layers and torch.equal(*states)


@pytest.mark.parametrize("head", ["dot", "linear"])
@pytest.mark.parametrize(("instruction", "response"), [(4, 0), (0, 0), (3, 2)])
def test_one_pass_is_row_by_row(head: str, instruction: int, response: int) -> None:
    model = build(head=head, instruction_vectors=instruction, response_vectors=response)
    items = torch.randint(1, 61, (3, 6), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = row_by_row(model, items)
        torch.testing.assert_close(model.hidden(Histories.of(items)), expected, atol=1e-5, rtol=1e-4)
        padded = functional.pad(items, (0, 3))
        torch.testing.assert_close(model.hidden(Histories.of(padded))[:, :6], expected, atol=1e-5, rtol=1e-4)
        lengths = torch.tensor([2, 6, 4])
        last = expected[torch.arange(3), lengths - 1]
        torch.testing.assert_close(model.query(Histories(padded, lengths)), last, atol=1e-5, rtol=1e-4)


def test_heads() -> None:
    dot, linear = build(), build(head="linear")
    assert (
        torch.equal(dot.item_vectors(), ids())
        and dot.hidden(Histories.of(torch.ones(1, 1, dtype=torch.int64))).shape[-1] == 12
    )
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
        torch.testing.assert_close(model.hidden(Histories.of(items)), row_by_row(model, items), atol=1e-5, rtol=1e-4)
    cut = model.cut([1, 3])
    save_checkpoint(str(tmp_path / "cut"), cut, dataset)
    for file in (tmp_path / "base").iterdir():
        file.unlink()
    loaded = load_checkpoint(tmp_path / "cut").model
    assert torch.equal(loaded.hidden(Histories.of(items)), cut.hidden(Histories.of(items)))
    cut.save_transformers(tmp_path / "plain")
    assert says_the_same(tmp_path / "plain", cut, layers=2)
    small = compress(cut, CompressionConfig(neurons=0.5, low_rank=LowRankConfig(), weights="int8"))
    save_checkpoint(str(tmp_path / "small"), small, dataset)
    with torch.inference_mode():
        assert torch.equal(
            load_checkpoint(tmp_path / "small").model.hidden(Histories.of(items)), small.hidden(Histories.of(items))
        )
    outline = load_checkpoint(tmp_path / "small", "meta").model
    assert isinstance(outline, E4SRec)
    assert (outline.depth, outline.width) == (small.depth, small.width)


@pytest.mark.parametrize("kind", ["e4srec", "hllm"])
def test_a_cut_from_scratch_is_a_model_of_transformers(dataset: PreparedDataset, tmp_path: Path, kind: str) -> None:
    options: dict[str, Any] = {"width": 16, "heads": 2, "layers": 4}
    torch.manual_seed(3)
    if kind == "hllm":
        text = TextEmbeddings(torch.randn(61, 10), torch.zeros(61, dtype=torch.bool))
        model: LayeredTeacher = HLLM.build(HLLMConfig(**options), dataset, text)
    else:
        model = build(layers=4)
    cut = model.cut([1, 2, 4]).eval()
    before = to_dict(cut.config), cut.decoder.config.to_dict()
    cut.save_transformers(tmp_path / "plain")
    assert says_the_same(tmp_path / "plain", cut, layers=3)
    assert before == (to_dict(cut.config), cut.decoder.config.to_dict())
    assert not any("embed_tokens" in name for name in load_file(tmp_path / "plain" / "model.safetensors"))
    with pytest.raises(UserError, match="no form for a compressed model"):
        compress(cut, CompressionConfig(weights="int8")).save_transformers(tmp_path / "small")


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


def pretrained(dataset: PreparedDataset, kind: str, base: str, **options: Any) -> LayeredTeacher:
    if kind == "e4srec":
        return build(llm=base, instruction="given history", **options)
    text = TextEmbeddings(torch.randn(61, 10), torch.zeros(61, dtype=torch.bool))
    return HLLM.build(HLLMConfig(width=16, user_model=base, **options), dataset, text).eval()


def same_layers(model: LayeredTeacher, whole: LayeredTeacher, numbers: list[int]) -> bool:
    """Whether a model's layers are those of another with these numbers."""
    wanted = torch.nn.ModuleList(whole.decoder.layers[number - 1] for number in numbers).state_dict()
    found = model.decoder.layers.state_dict()
    return found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in found)


@pytest.mark.parametrize(("kind", "family"), [("e4srec", "llama"), ("e4srec", "gemma2"), ("hllm", "qwen3")])
def test_a_teacher_on_some_layers_of_a_pretrained_model(
    dataset: PreparedDataset, tmp_path: Path, kind: str, family: str
) -> None:
    base = base_model(tmp_path / "base", family)
    whole = pretrained(dataset, kind, base)
    assert whole.depth == 3 and whole.config.base_layers is None
    some = pretrained(dataset, kind, base, base_layers=[1, 3])
    first = pretrained(dataset, kind, base, base_layers=2)
    assert same_layers(some, whole, [1, 3]) and same_layers(first, whole, [1, 2])
    assert some.decoder.config.to_dict() == whole.cut([1, 3]).decoder.config.to_dict()
    save_checkpoint(str(tmp_path / "some"), some, dataset)
    loaded = load_checkpoint(tmp_path / "some")
    shown = Histories.of(torch.randint(1, 61, (2, 5), generator=torch.Generator().manual_seed(1)))
    assert torch.equal(loaded.model.hidden(shown), some.hidden(shown))
    with pytest.raises(UserError, match="9 layers cannot be kept of a model of 3"):
        pretrained(dataset, kind, base, base_layers=9)

    # What begins anew begins with the layers that it keeps, whatever was cut before.
    for model in (some, loaded.model, whole.cut([1, 3])):
        assert same_layers(model.fresh([2]), whole, [3]) and same_layers(model.fresh(2), whole, [1, 3])
        assert same_layers(model.cut([2]).fresh(1), whole, [3])
    taught = build_slmrec(
        SLMRecConfig(kind="slmrec", keep=(2,), start="fresh"),
        dataset,
        loaded,
        loss=RecommendationLossConfig(),
        alignment=AlignmentConfig(blocks=1, online=True),
    )
    assert same_layers(taught.model, whole, [3]) and same_layers(taught.deep, whole, [1, 3])


def test_adapters_train_alone_and_are_merged_when_saved(dataset: PreparedDataset, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    plain = build(llm=base_model(tmp_path / "base", "llama"), instruction="given history")
    model = build(llm=str(tmp_path / "base"), instruction="given history", lora={"rank": 2})
    shown = Histories.of(torch.randint(1, 61, (2, 5), generator=torch.Generator().manual_seed(1)))
    torch.testing.assert_close(model.hidden(shown), plain.hidden(shown))
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert {name.split(".")[0] for name in trained} == {"llm", "enter", "score"}
    assert all("lora_" in name for name in trained if name.startswith("llm"))
    loaded = with_drawn_adapters(model, dataset, tmp_path / "teacher")
    torch.testing.assert_close(loaded.hidden(shown), model.hidden(shown), atol=1e-4, rtol=1e-4)
    assert_peft_reads(tmp_path / "teacher", tmp_path / "base", model.llm)
    assert not torch.allclose(loaded.hidden(shown), plain.hidden(shown), atol=1e-3)
    cut = model.cut(2)
    torch.testing.assert_close(cut.hidden(shown), model.readouts(shown, [2])[2])


@pytest.mark.parametrize("start", ["teacher", "fresh"])
@pytest.mark.parametrize(("kind", "option"), [("e4srec", "lora"), ("hllm", "user_lora")])
def test_online_a_teacher_with_adapters_trains_adapters(
    dataset: PreparedDataset, tmp_path: Path, kind: str, option: str, start: str
) -> None:
    pytest.importorskip("peft")
    model = pretrained(dataset, kind, base_model(tmp_path / "base", "llama"), **{option: {"rank": 2}})
    state = model.finish(model.export_state(), dataset)
    save_checkpoint(str(tmp_path / "teacher"), model, dataset, state=state)
    objective = build_slmrec(
        SLMRecConfig(kind="slmrec", layers=1, start=start),
        dataset,
        load_checkpoint(tmp_path / "teacher"),
        loss=RecommendationLossConfig(),
        alignment=AlignmentConfig(blocks=1, online=True),
    )

    def trained(module: torch.nn.Module) -> set[str]:
        return {name for name, parameter in module.named_parameters() if parameter.requires_grad}

    assert trained(objective.deep) == trained(model) and any("lora_A" in name for name in trained(model))
    assert trained(objective.model) == {name for name, _ in objective.model.named_parameters()}
    batch, _ = next(iter(objective.batches(dataset, TrainingConfig(batch_size=4), rank=0, world=1).epoch(0)))
    objective(batch)[0].backward()
    assert all(parameter.grad is not None for parameter in objective.parameters() if parameter.requires_grad)


def with_drawn_adapters(model: LayeredTeacher, dataset: PreparedDataset, checkpoint: Path) -> Any:
    """Draw a model's adapters at random; the model that is loaded from its checkpoint."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    save_checkpoint(str(checkpoint), model, dataset, state=model.finish(model.export_state(), dataset))
    return load_checkpoint(checkpoint).model


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
    assert learned_rows(objective, dataset) == dataset.rows("train").tolist()
    one = E4SRec.objective(dataclasses.replace(config, rows="one-a-user"), dataset, inputs, seed=0)
    assert learned_rows(one, dataset) == last_rows(dataset)
    rankings = objective.model.ready(SignalsConfig(k=5, dtype="fp32"), "cpu").rank(dataset, dataset.rows("test"))
    assert rankings.items.shape == (12, 5)
    with pytest.raises(UserError, match=r"student 'other' has no checkpoint in .*; run distill --student other first"):
        E4SRec.prepare(
            E4SRecConfig(**SMALL, ids_from="other"), dataset, cache="", student=lambda name: str(tmp_path / name)
        )


def learned_rows(objective: Objective, dataset: PreparedDataset) -> list[int]:
    batches = objective.batches(dataset, TrainingConfig(batch_size=5), rank=0, world=1).epoch(0)
    return sorted(row for batch, _ in batches for row in batch["rows"][batch["targets"] > 0].tolist())


def last_rows(dataset: PreparedDataset) -> list[int]:
    rows = dataset.rows("train")
    users = dataset.users_of(rows)
    return [int(rows[users == user].max()) for user in np.unique(users)]


@pytest.mark.parametrize("similarity", [None, 0.99])
def test_hllm_learns_from_one_row_a_user(dataset: PreparedDataset, similarity: float | None) -> None:
    text = TextEmbeddings(torch.randn(61, 10), torch.zeros(61, dtype=torch.bool))
    for rows, expected in (("every-position", dataset.rows("train").tolist()), ("one-a-user", last_rows(dataset))):
        config = HLLMConfig(width=16, heads=2, duplicate_similarity=similarity, rows=rows)
        assert learned_rows(hllm_objective(HLLM.build(config, dataset, text), dataset), dataset) == expected


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
    assert isinstance(from_dict(TeacherModelConfig, {"width": 32}), HLLMConfig), "hllm where no kind is given"
    config = from_dict(TeacherModelConfig, {"kind": "e4srec", "layers": 3})
    assert from_dict(TeacherModelConfig, to_dict(config)) == config == E4SRecConfig(kind="e4srec", layers=3)
    for values, message in [
        ({"width": 20, "heads": 4}, "multiple of twice the heads"),
        ({"lora": {}}, "lora adapts a pretrained model"),
        ({"response": "Response:"}, "set response_vectors"),
        ({"base_layers": 2}, "base_layers picks layers of a pretrained model"),
        ({"witdh": 3}, "did you mean width"),
    ]:
        with pytest.raises(UserError, match=message):
            from_dict(TeacherSettings, {"model": {"kind": "e4srec", **values}})
