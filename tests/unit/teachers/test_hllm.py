from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.nn import functional
from transformers import AutoModel

from recsys.checkpoint import load_checkpoint, save_checkpoint
from recsys.config import from_dict, to_dict
from recsys.data.prepared import PreparedDataset
from recsys.decoders.item_encoder import TextEmbeddings
from recsys.errors import UserError
from recsys.histories import Histories
from recsys.losses.config import RecommendationLossConfig
from recsys.teacher import Teacher
from recsys.teachers import hllm
from recsys.teachers.config import HLLMConfig
from recsys.teachers.hllm import HLLM
from recsys.training.config import TrainingConfig
from recsys.training.engine import build_engine
from recsys.training.objective import NextItemObjective
from tests.unit.teachers.test_e4srec import FAMILIES, assert_peft_reads, base_model, with_drawn_adapters

SMALL = {"width": 16, "heads": 2, "hidden": 24}


def assert_outline(checkpoint: Path, model: Teacher) -> None:
    """On the device `meta` a checkpoint has its shapes and takes no memory."""
    outline = load_checkpoint(checkpoint, "meta").model
    assert isinstance(outline, type(model))
    assert {tensor.device.type for tensor in outline.state_dict().values()} == {"meta"}
    assert {name: tensor.shape for name, tensor in outline.state_dict().items()} == {
        name: tensor.shape for name, tensor in model.state_dict().items()
    }


def text_of(dataset: PreparedDataset, width: int = 12) -> TextEmbeddings:
    generator = torch.Generator().manual_seed(5)
    vectors = functional.normalize(torch.randn(dataset.num_items + 1, width, generator=generator), dim=1)
    vectors[0] = 0
    return TextEmbeddings(vectors=vectors, missing=torch.zeros(dataset.num_items + 1, dtype=torch.bool))


def build(dataset: PreparedDataset, **options: object) -> HLLM:
    torch.manual_seed(3)
    return HLLM.build(HLLMConfig(**{**SMALL, **options}), dataset, text_of(dataset)).eval()


@pytest.fixture
def dataset(random_dataset: Callable[..., PreparedDataset]) -> PreparedDataset:
    return random_dataset()


def test_a_later_item_never_changes_an_earlier_prediction(dataset: PreparedDataset) -> None:
    model = build(dataset)
    items = torch.randint(1, 61, (3, 8))
    changed = items.clone()
    changed[:, 5] = changed[:, 5] % 60 + 1
    before, after = model.hidden(Histories.of(items)), model.hidden(Histories.of(changed))
    torch.testing.assert_close(before[:, :5], after[:, :5])
    assert not torch.allclose(before[:, 5:], after[:, 5:])


def test_padding_changes_nothing_and_stays_finite(dataset: PreparedDataset) -> None:
    model = build(dataset)
    items = torch.randint(1, 61, (3, 5))
    padded = functional.pad(items, (0, 6))
    wide = model.hidden(Histories.of(padded))
    torch.testing.assert_close(wide[:, :5], model.hidden(Histories.of(items)))
    assert bool(torch.isfinite(wide).all())
    torch.testing.assert_close(
        model.query(Histories(padded, torch.tensor([5, 5, 5]))), model.query(Histories(items, torch.full((3,), 5)))
    )


def test_scores_are_cosines_times_the_temperature(dataset: PreparedDataset) -> None:
    model = build(dataset)
    vectors = model.item_vectors()
    assert vectors.shape == (61, 16)
    assert not vectors[0].any()
    torch.testing.assert_close(vectors[1:].norm(dim=1), torch.ones(60))
    hidden = model.hidden(Histories.of(torch.randint(1, 61, (2, 4))), vectors)
    torch.testing.assert_close(hidden.norm(dim=-1), torch.full((2, 4), 1 / 0.07))
    cosine = functional.cosine_similarity(hidden[:, :, None], vectors[1:], dim=-1)
    torch.testing.assert_close((hidden @ vectors.T)[..., 1:], cosine / 0.07)
    with torch.no_grad():
        model.logit_scale.fill_(9.0)
    torch.testing.assert_close(
        model.hidden(Histories.of(torch.ones(1, 1, dtype=torch.int64))).norm(), torch.tensor(100.0)
    )


@pytest.mark.parametrize("chunk", [7, 60, 100])
def test_vectors_in_parts_are_those_of_all(
    dataset: PreparedDataset, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(dataset)
    monkeypatch.setattr(hllm, "_ITEMS", chunk)
    with torch.no_grad():
        parts = model.item_vectors()
    torch.testing.assert_close(parts, model.item_vectors().detach())
    assert model.item_vectors().requires_grad


@pytest.mark.parametrize("options", [{}, {"id_offset": False, "hidden": 0, "layers": 1}])
def test_checkpoint_round_trip_is_exact(dataset: PreparedDataset, tmp_path: Path, options: dict[str, object]) -> None:
    model = build(dataset, **options)
    save_checkpoint(str(tmp_path / "teacher"), model, dataset)
    loaded = load_checkpoint(tmp_path / "teacher").model
    shown = Histories.of(torch.randint(1, 61, (4, 8)))
    assert torch.equal(loaded.hidden(shown), model.hidden(shown))
    assert torch.equal(loaded.item_vectors(), model.item_vectors())
    assert_outline(tmp_path / "teacher", model)
    assert not any("embed_tokens" in name for name in model.state_dict())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pretrained_decoder_is_needed_once(dataset: PreparedDataset, tmp_path: Path, family: str) -> None:
    base = Path(base_model(tmp_path / "base", family))
    pretrained = AutoModel.from_pretrained(base)
    pretrained.to(torch.bfloat16).save_pretrained(base)
    model = build(dataset, user_model=str(base))
    assert torch.equal(model.user.norm.weight, pretrained.norm.weight.float())
    assert torch.equal(model.user.layers[0].mlp.up_proj.weight, pretrained.layers[0].mlp.up_proj.weight.float())
    items = torch.randint(1, 61, (4, 8))
    loss = NextItemObjective(model, RecommendationLossConfig(), dataset).next_item(
        model.hidden(Histories.of(items))[:, -1], model.item_vectors(), items[:, 0], items[:, 0]
    )[0]
    loss.backward()
    assert all(parameter.grad is not None for name, parameter in model.named_parameters())
    changed = items.clone()
    changed[:, 5] = changed[:, 5] % 60 + 1
    torch.testing.assert_close(model.hidden(Histories.of(changed))[:, :5], model.hidden(Histories.of(items))[:, :5])
    save_checkpoint(str(tmp_path / "teacher"), model, dataset)
    for file in base.iterdir():
        file.unlink()
    assert torch.equal(
        load_checkpoint(tmp_path / "teacher").model.hidden(Histories.of(items)), model.hidden(Histories.of(items))
    )


def test_adapters_of_the_user_model_train_alone_and_are_merged(dataset: PreparedDataset, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    base = base_model(tmp_path / "base", "qwen3")
    plain = build(dataset, user_model=base)
    model = build(dataset, user_model=base, user_lora={"rank": 2})
    shown = Histories.of(torch.randint(1, 61, (4, 8)))
    torch.testing.assert_close(model.hidden(shown), plain.hidden(shown))
    learning = {name for name, parameter in model.user.named_parameters() if parameter.requires_grad}
    assert learning and all("lora_" in name for name in learning)
    loaded = with_drawn_adapters(model, dataset, tmp_path / "teacher")
    torch.testing.assert_close(loaded.hidden(shown), model.hidden(shown), atol=1e-3, rtol=1e-3)
    assert not torch.allclose(loaded.hidden(shown), plain.hidden(shown), atol=1e-2)
    assert_peft_reads(tmp_path / "teacher", tmp_path / "base", model.user)
    with pytest.raises(UserError, match="user_lora adapts a pretrained model; name one in user_model"):
        from_dict(HLLMConfig, {"user_lora": {}})


def test_a_pretrained_decoder_is_cut_and_begins_afresh(dataset: PreparedDataset, tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaModel

    sizes = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
    LlamaModel(LlamaConfig(vocab_size=50, bos_token_id=None, eos_token_id=None, **sizes)).save_pretrained(
        tmp_path / "b"
    )
    model = build(dataset, user_model=str(tmp_path / "b"))
    cut, fresh = model.cut([1, 3]), model.fresh([1, 3])
    assert cut.depth == fresh.depth == 2 and cut.config.user_config == fresh.config.user_config
    assert torch.equal(fresh.user.layers[1].mlp.up_proj.weight, model.user.layers[2].mlp.up_proj.weight)
    assert torch.equal(fresh.text, model.text)
    save_checkpoint(str(tmp_path / "cut"), cut, dataset)
    shown = Histories.of(torch.randint(1, 61, (4, 8)))
    assert torch.equal(load_checkpoint(tmp_path / "cut").model.hidden(shown), cut.hidden(shown))


def test_it_learns_a_cycle(random_dataset: Callable[..., PreparedDataset]) -> None:
    model = build(random_dataset(), dropout=0.0).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    items = torch.arange(1, 61).repeat(2, 1).view(2, 60)
    for _ in range(60):
        vectors = model.item_vectors()
        logits = model.hidden(Histories.of(items[:, :-1]), vectors) @ vectors[1:].T
        loss = functional.cross_entropy(logits.flatten(0, 1), items[:, 1:].flatten() - 1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (logits.argmax(-1) == items[:, 1:] - 1).float().mean() > 0.9


def test_checkpointing_changes_no_gradient(dataset: PreparedDataset) -> None:
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = build(dataset, dropout=0.0)
        objective = NextItemObjective(model, RecommendationLossConfig(), dataset)
        config = TrainingConfig(batch_size=4, checkpointing=checkpointing, learning_rate=1e-3)
        engine = build_engine(objective, config, torch.device("cpu"))
        batch, total = next(objective.batches(dataset, config, rank=0, world=1).epoch(0))
        objective.train()
        engine.step(batch, total, 0.0)
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() and gradients[0]
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


def test_text_of_another_catalogue_is_refused(dataset: PreparedDataset) -> None:
    text = text_of(dataset)
    with pytest.raises(UserError, match="11 text embeddings for 60 items"):
        HLLM.build(HLLMConfig(**SMALL), dataset, TextEmbeddings(text.vectors[:11], text.missing[:11]))


def test_configuration_is_checked_and_survives_json() -> None:
    with pytest.raises(UserError, match="multiple of twice the heads"):
        from_dict(HLLMConfig, {"width": 20, "heads": 4})
    config = HLLMConfig(user_config={"model_type": "llama"})
    assert from_dict(HLLMConfig, to_dict(config)) == config
