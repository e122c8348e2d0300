"""HLLM with a trained item side; the item language models are tiny, with random weights."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from recsys.checkpoint import load_checkpoint, save_checkpoint
from recsys.data.prepared import PreparedDataset
from recsys.decoders.config import ItemEncoderConfig, ItemLoRAConfig
from recsys.histories import Histories
from recsys.serving.recommender import Recommender
from recsys.teachers.config import HLLMConfig
from recsys.teachers.hllm import HLLM
from recsys.teachers.hllm_training import InfoNCE
from recsys.training.config import DeepSpeedConfig, TrainingConfig
from recsys.training.loop import train_local
from recsys.training.objective import NextItemObjective, Objective

SMALL = {"width": 16, "heads": 2, "layers": 1, "hidden": 24, "dropout": 0.0, "negatives": 20}


@pytest.fixture
def dataset(random_dataset: Callable[..., PreparedDataset]) -> PreparedDataset:
    made = random_dataset()
    titles = [*made.catalogue.titles]
    titles[7], titles[9] = "", "Film number 9 with a title that is much longer than that of the others"
    return replace(made, catalogue=replace(made.catalogue, titles=titles))


@pytest.fixture(params=["Bert", "Llama"])
def item_model(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return save_item_model(tmp_path / "item", request.param)


def save_item_model(folder: Path, family: str) -> str:
    import transformers
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    words = ["<pad>", "</s>", "?", "Film", "number", "with", "a", "title", *map(str, range(1, 61))]
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="?"))
    tokenizer.pre_tokenizer = Whitespace()  # type: ignore[assignment]
    size = {
        "vocab_size": len(words), "hidden_size": 12, "intermediate_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "pad_token_id": 0, "bos_token_id": None, "eos_token_id": 1,
    }  # fmt: skip
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0} if family == "Bert" else {}
    torch.manual_seed(4)
    config = getattr(transformers, f"{family}Config")(**size, **dropout)
    getattr(transformers, f"{family}Model")(config).save_pretrained(folder)
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>"
    ).save_pretrained(folder)
    return str(folder)


def objective(dataset: PreparedDataset, item_model: str, cache: Path, **options: object) -> Objective:
    config = HLLMConfig(**{**SMALL, "item": ItemEncoderConfig(model=item_model, batch_tokens=64), **options})
    inputs = HLLM.prepare(config, dataset, cache=str(cache), student=str)
    return HLLM.objective(config, dataset, inputs, seed=0)


@pytest.mark.parametrize("training", ["lora", "full"])
def test_before_training_it_is_the_frozen_teacher(
    dataset: PreparedDataset, item_model: str, tmp_path: Path, training: str
) -> None:
    frozen = objective(dataset, item_model, tmp_path)
    trained = objective(dataset, item_model, tmp_path, item_training=training)
    assert isinstance(frozen, NextItemObjective) and isinstance(trained, InfoNCE)
    assert torch.equal(frozen.model.item_vectors(), trained.model.item_vectors())
    items = torch.tensor([0, 3, 7, 9, 60])
    vectors = trained.model.vectors_of(items)
    torch.testing.assert_close(vectors, frozen.model.item_vectors()[items], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(trained.model.titles.table(), frozen.model.text, atol=1e-5, rtol=1e-4)
    assert not trained.model.titles.table()[[0, 7]].any()
    learning = {name for name, p in trained.model.titles.named_parameters() if p.requires_grad}
    assert learning and all("lora_" in name for name in learning) == (training == "lora")


@pytest.mark.parametrize("training", ["lora", "full"])
def test_the_whole_step_reaches_the_item_language_model(
    dataset: PreparedDataset, item_model: str, tmp_path: Path, training: str
) -> None:
    made = objective(dataset, item_model, tmp_path, item_training=training, negatives=100)
    batch, _ = next(made.batches(dataset, TrainingConfig(batch_size=4), rank=0, world=1).epoch(0))
    loss, _ = made(batch)
    loss.backward()
    without = [n for n, p in made.named_parameters() if p.requires_grad and p.grad is None]
    assert not without  # data parallelism would wait for them
    # With every item drawn, this is the loss of the whole catalogue.
    frozen = NextItemObjective(made.model, objective(dataset, item_model, tmp_path).loss.config, dataset)
    torch.testing.assert_close(loss, frozen(batch)[0], atol=1e-3, rtol=1e-4)


def test_near_duplicates_push_no_one_away(dataset: PreparedDataset, tmp_path: Path) -> None:
    item_model = save_item_model(tmp_path / "item", "Bert")
    titles = [*dataset.catalogue.titles]
    titles[11] = titles[12]
    twins = replace(dataset, catalogue=replace(dataset.catalogue, titles=titles), titles_hash="")
    made = objective(twins, item_model, tmp_path, id_offset=False, duplicate_similarity=0.9999)
    assert isinstance(made, InfoNCE) and made.model.titles is None
    batch = {"items": torch.tensor([[3, 4]]), "targets": torch.tensor([[0, 12]])}
    logits = (made.model.hidden(Histories.of(batch["items"])) @ made.model.item_vectors().T)[0, 1]
    others = [n for n in range(1, 61) if n != 11]
    expected = logits[others].logsumexp(dim=0) - logits[12]
    torch.testing.assert_close(made(batch)[0], expected)
    plain = objective(twins, item_model, tmp_path, id_offset=False)
    assert bool(plain({**batch, "rows": batch["items"]})[0] > expected)


@pytest.mark.parametrize("training", ["lora", "full"])
def test_it_learns_and_its_checkpoint_needs_no_item_model(
    dataset: PreparedDataset, item_model: str, tmp_path: Path, training: str
) -> None:
    made = objective(dataset, item_model, tmp_path, item_training=training, item_lora=ItemLoRAConfig(dropout=0.0))
    before = made.model.text.clone()
    config = TrainingConfig(epochs=3, batch_size=4, learning_rate=5e-3)
    result = train_local(made, dataset, config, tmp_path / "run")
    assert result.progress.curve[-1]["loss"] < result.progress.curve[0]["loss"]
    assert not any(name.startswith("titles.") for name in result.state)
    assert not torch.allclose(result.state["text"], before, atol=1e-3)
    save_checkpoint(str(tmp_path / "teacher"), made.model, dataset, state=result.state)
    for file in (tmp_path / "item").iterdir():
        file.unlink()
    loaded = load_checkpoint(tmp_path / "teacher").model
    if result.progress.best_epoch == 3:
        torch.testing.assert_close(loaded.item_vectors(), made.model.eval().item_vectors())
    torch.testing.assert_close(loaded.text, result.state["text"])
    assert len(Recommender.load(tmp_path / "teacher").recommend([["i1", "i7"]], k=5)[0]) == 5


def test_the_table_is_read_anew_after_a_step_alone(dataset: PreparedDataset, tmp_path: Path) -> None:
    made = objective(dataset, save_item_model(tmp_path / "item", "Bert"), tmp_path, item_training="full")
    model = made.model.eval()
    with torch.no_grad():
        model.titles.model.embeddings.word_embeddings.weight.mul_(2)
    before = model.text.clone()
    model.item_vectors()
    assert torch.equal(model.text, before)  # nobody has trained
    model.train()
    made(next(made.batches(dataset, TrainingConfig(batch_size=4), rank=0, world=1).epoch(0))[0])
    model.eval().item_vectors()
    torch.testing.assert_close(model.text, model.titles.table())
    assert not torch.allclose(model.text, before, atol=1e-3)


@pytest.mark.parametrize("deepspeed", [None, DeepSpeedConfig(zero_stage=1)])
def test_an_interrupted_training_goes_on_as_if_nothing_had_happened(
    dataset: PreparedDataset, tmp_path: Path, deepspeed: DeepSpeedConfig | None
) -> None:
    item_model = save_item_model(tmp_path / "item", "Bert")
    states = []
    for name, epochs in (("whole", (2,)), ("halves", (1, 2))):
        for number in epochs:
            made = objective(dataset, item_model, tmp_path, item_training="lora")
            config = TrainingConfig(epochs=number, batch_size=4, learning_rate=5e-3, deepspeed=deepspeed)
            directory = tmp_path / name
            if number > 1 and (directory / "last").exists():
                _unfinish(directory / "last")
            result = train_local(made, dataset, config, directory)
        states.append(made.model.export_state())
    for name, tensor in states[0].items():
        torch.testing.assert_close(states[1][name], tensor)
    assert len(result.progress.curve) == 2


def _unfinish(directory: Path) -> None:
    import json

    path = directory / "progress.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "finished": False}))
