import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from recsys.checkpoint import load_checkpoint, save_checkpoint
from recsys.config import from_dict, load_config, to_dict
from recsys.data.prepared import PreparedDataset, Split
from recsys.decoders.loading import load_tokenizer
from recsys.errors import UserError
from recsys.evaluation.ranking import model_scorer
from recsys.histories import Histories
from recsys.losses.config import RecommendationLossConfig
from recsys.serving.recommender import Recommender
from recsys.signals.config import SignalsConfig
from recsys.students.build import build_student
from recsys.students.config import SASRecConfig
from recsys.teachers.bigrec.bigrec import BIGRec
from recsys.teachers.bigrec.config import BIGRecConfig, BIGRecLoRAConfig
from recsys.teachers.bigrec.language_model import train_tokenizer
from recsys.teachers.bigrec.training import PromptBatches, TitleObjective
from recsys.teachers.config import HLLMConfig
from recsys.training.config import TrainingConfig
from recsys.training.engine import build_engine
from recsys.training.loop import train_local
from tests.unit.teachers.bigrec.conftest import SMALL, poisoned, save_base


def histories(dataset: PreparedDataset, split: Split = "test") -> list[list[int]]:
    return [dataset.seen(int(row))[-dataset.max_history :].tolist() for row in dataset.rows(split)]


def named(dataset: PreparedDataset, history: list[int]) -> list[str]:
    return [dataset.catalogue.item_ids[item] for item in history]


@pytest.mark.parametrize("pooling", ["last", "mean", "prompt_eol"])
def test_dot_products_order_items_by_their_distance(
    dataset: PreparedDataset, teacher: Callable[..., BIGRec], pooling: str
) -> None:
    model = teacher(dataset, pooling=pooling)
    query = model.query(Histories.of_rows(dataset, dataset.rows("test")))
    scores = query @ model.item_vectors().T
    texts = model.write(model.generator(model.lm), histories(dataset))
    written = model.embed_texts(texts)
    titles = model.embed_texts(model.prompts.names[1:])
    distance = torch.cdist(written.double(), titles.double())
    expected = distance.square().min(dim=1, keepdim=True).values - distance.square()
    torch.testing.assert_close(scores[:, 1:].double(), expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("constrained", [False, True])
def test_a_checkpoint_recommends_what_the_teacher_did(
    dataset: PreparedDataset, teacher: Callable[..., BIGRec], tmp_path: Path, constrained: bool
) -> None:
    model = teacher(dataset, constrained=constrained, beams=2)
    save_checkpoint(str(tmp_path / "teacher"), model, dataset)
    loaded = load_checkpoint(tmp_path / "teacher").model
    shown = Histories.of_rows(dataset, dataset.rows("test"))
    assert torch.equal(loaded.query(shown), model.query(shown))
    outline = load_checkpoint(tmp_path / "teacher", "meta").model
    assert isinstance(outline, BIGRec)
    assert {tensor.device.type for tensor in outline.state_dict().values()} == {"meta"}
    assert torch.equal(loaded.item_vectors(), model.item_vectors())
    recommender = Recommender.load(tmp_path / "teacher")
    shown = [named(dataset, history) for history in histories(dataset)]
    masked = recommender.recommend(shown, k=5)
    assert not any(set(answer) & set(history) for answer, history in zip(masked, shown, strict=True))
    signals = SignalsConfig(k=5, dtype="fp32", mask_history=False, batch_size=5)
    ranked = model.ready(signals, "cpu").rank(dataset, dataset.rows("test"))
    expected = [named(dataset, row.tolist()) for row in ranked.items]
    assert recommender.recommend(shown, k=5, mask_seen=False) == expected


def test_popularity_weighs_distances_by_the_gamma_that_validates_best(
    dataset: PreparedDataset, teacher: Callable[..., BIGRec], tmp_path: Path
) -> None:
    counts = np.arange(61)[::-1].copy()
    counts[0] = 0
    targets = dataset.items.copy()
    targets[dataset.rows("valid")] = 1  # the most popular item
    dataset = dataclasses.replace(
        dataset, items=targets, catalogue=dataclasses.replace(dataset.catalogue, train_counts=counts), fingerprint=""
    )
    plain, weighed = teacher(dataset), teacher(dataset, popularity=True)
    state = weighed.finish(weighed.state_dict(), dataset)
    gamma = -torch.log2(weighed.weights[1])
    assert float(gamma) > 1
    popularity = torch.from_numpy(counts[1:] / 59).float()
    torch.testing.assert_close(weighed.weights[1:], (1 + popularity) ** -gamma)
    shown = Histories.of_rows(dataset, dataset.rows("test"))
    scores = weighed.scores(shown)
    written = weighed.embed_texts(weighed.write(weighed.generator(weighed.lm), histories(dataset)))
    distance = torch.cdist(written.double(), weighed.embed_texts(weighed.prompts.names[1:]).double())
    d = distance - distance.min(dim=1, keepdim=True).values
    torch.testing.assert_close(-scores[:, 1:].double(), d * (1 + popularity) ** -gamma, atol=5e-3, rtol=1e-3)
    save_checkpoint(str(tmp_path / "teacher"), weighed, dataset, state=state)
    shown = [named(dataset, history) for history in histories(dataset)]
    answers = Recommender.load(tmp_path / "teacher").recommend(shown, k=5, mask_seen=False)
    config = SignalsConfig(k=5, dtype="fp32", mask_history=False)
    ranked = weighed.ready(config, "cpu").rank(dataset, dataset.rows("test"))
    # A written title has distance 0, which a dot product gives but to rounding: neighbours may change places.
    shared = [len(set(a) & set(named(dataset, b.tolist()))) / 5 for a, b in zip(answers, ranked.items, strict=True)]
    assert np.mean(shared) > 0.9
    unweighed = plain.ready(config, "cpu").rank(dataset, dataset.rows("test"))
    assert counts[ranked.items].mean() > counts[unweighed.items].mean()
    assert np.array_equal(ranked.target_distance, unweighed.target_distance)


def test_a_students_scores_weigh_distances(
    dataset: PreparedDataset, objective: Callable[..., TitleObjective], tmp_path: Path
) -> None:
    student = build_student(SASRecConfig(width=16), dataset, loss=RecommendationLossConfig(), seed=0).model.eval()
    uri = str(tmp_path / "student")
    save_checkpoint(uri, student, dataset)
    config = BIGRecConfig(**SMALL, scores_from="sasrec", beams=1)
    with pytest.raises(UserError, match=r"scores_from: student 'sasrec' has no checkpoint .* run distill --student"):
        BIGRec.prepare(config, dataset, cache=str(tmp_path), student=lambda name: str(tmp_path / "none"))
    inputs = BIGRec.prepare(config, dataset, cache=str(tmp_path), student=lambda name: uri)
    model = BIGRec.objective(config, dataset, inputs, seed=0).model.eval()
    assert not any(weight.requires_grad for name, weight in model.named_parameters() if name.startswith("student."))
    model.embed_titles()
    shown = Histories.of_rows(dataset, dataset.rows("valid"))
    # What validates best is what the student says: its first choice is the target.
    best = student.scores(shown).detach()
    best[:, 0] = -torch.inf
    best[dataset.past(dataset.rows("valid"))] = -torch.inf
    targets = dataset.items.copy()
    targets[dataset.rows("valid")] = best.argmax(dim=1).numpy()
    easy = dataclasses.replace(dataset, items=targets)
    state = model.finish(model.state_dict(), easy)
    gamma = float(model.gamma)
    assert gamma > 1
    scores = student.scores(shown)[:, 1:]
    c = (scores - scores.min(dim=1, keepdim=True).values) / (
        scores.max(dim=1, keepdim=True).values - scores.min(dim=1, keepdim=True).values
    )
    weighed = model.scores(shown)
    written = model.embed_texts(model.write(model.generator(model.lm), histories(dataset, "valid")))
    distance = torch.cdist(written.double(), model.embed_texts(model.prompts.names[1:]).double())
    d = distance - distance.min(dim=1, keepdim=True).values
    torch.testing.assert_close(-weighed[:, 1:].double(), d * (1 + c) ** -gamma, atol=5e-3, rtol=1e-3)
    assert not torch.allclose(-weighed[:, 1:].double(), distance.square() * (1 + c) ** -gamma, atol=0.05)
    save_checkpoint(str(tmp_path / "teacher"), model, dataset, state=state)
    loaded = load_checkpoint(tmp_path / "teacher").model
    assert torch.equal(loaded.scores(shown), weighed)
    answers = Recommender.load(tmp_path / "teacher").recommend(
        [named(dataset, dataset.seen(row)[-8:].tolist()) for row in dataset.rows("valid")], k=5, mask_seen=False
    )
    ranked = model.ready(SignalsConfig(k=5, dtype="fp32", mask_history=False, batch_size=5), "cpu").rank(
        dataset, dataset.rows("valid")
    )
    # A written title has distance 0, which a dot product gives but to rounding: neighbours may change places.
    shared = [len(set(a) & set(named(dataset, b.tolist()))) / 5 for a, b in zip(answers, ranked.items, strict=True)]
    assert np.mean(shared) > 0.9
    other = dataclasses.replace(dataset, fingerprint="0" * 64)
    with pytest.raises(UserError, match=r"scores_from: student 'sasrec' was trained on dataset"):
        BIGRec.objective(config, other, inputs, seed=0)
    with pytest.raises(UserError, match="both say what c is"):
        from_dict(BIGRecConfig, {"popularity": True, "scores_from": "sasrec"})


def test_the_pass_equals_each_row_alone(dataset: PreparedDataset, teacher: Callable[..., BIGRec]) -> None:
    model = teacher(dataset)
    rows = np.sort(np.concatenate([dataset.rows(split) for split in ("train", "valid", "test")]))[::3]
    titles = model.embed_texts(model.prompts.names[1:])
    written = model.embed_texts(
        model.write(model.generator(model.lm), [dataset.seen(row)[-8:].tolist() for row in rows])
    )
    ranked = model.ready(SignalsConfig(k=4, dtype="fp32", batch_size=7), "cpu").rank(dataset, rows)
    assert np.array_equal(ranked.rows, rows)
    for i, row in enumerate(rows):
        distance = (titles - written[i]).norm(dim=1)
        assert ranked.target_distance[i] == pytest.approx(float(distance[dataset.items[row] - 1]), abs=1e-4)
        distance[dataset.seen(row).astype(np.int64) - 1] = torch.inf
        np.testing.assert_allclose(ranked.scores[i], distance.sort().values[:4], atol=1e-4)
        assert ranked.items[i].tolist() == (distance.argsort()[:4] + 1).tolist()


def test_times_reach_the_prompt_on_every_way(
    dataset: PreparedDataset, teacher: Callable[..., BIGRec], tmp_path: Path
) -> None:
    dataset.timestamps[:] = np.random.default_rng(0).integers(0, 10**6, len(dataset.timestamps)).cumsum()
    model = teacher(dataset, time_gaps=True)
    rows = dataset.rows("test")
    times = [
        dataset.timestamps[row - len(history) : row].tolist()
        for row, history in zip(rows, histories(dataset), strict=True)
    ]
    written = model.write(model.generator(model.lm), histories(dataset), times)
    assert written != model.write(model.generator(model.lm), histories(dataset))
    shown = Histories.of_rows(dataset, rows)
    scores = model.query(shown) @ model.item_vectors().T
    assert torch.equal(scores, model_scorer(model)(shown))
    save_checkpoint(str(tmp_path / "teacher"), model, dataset)
    signals = SignalsConfig(k=5, dtype="fp32", mask_history=False, batch_size=5)
    ranked = model.ready(signals, "cpu").rank(dataset, rows)
    shown = [named(dataset, history) for history in histories(dataset)]
    answers = Recommender.load(tmp_path / "teacher").recommend(shown, k=5, mask_seen=False, times=times)
    assert answers == [named(dataset, row.tolist()) for row in ranked.items]
    example, first = PromptBatches(dataset, model.prompts, rows, on_inputs=False, batch_size=1, seed=0).example(
        int(rows[0])
    )
    assert example[:first] == model.prompts.history(histories(dataset)[0], times[0])


def test_it_says_what_its_answers_depend_on(dataset: PreparedDataset, teacher: Callable[..., BIGRec]) -> None:
    said = teacher(dataset, train_rows=9, beams=2).describe()
    assert (said["language_model"], said["learned_rows"], said["beams"]) == ("from-scratch", 9, 2)
    assert "gamma" not in said
    model = teacher(dataset, popularity=True)
    model._inject(2.0, dataset)
    assert model.describe()["gamma"] == 2.0
    json.dumps(model.describe())


def test_texts_are_grounded_alone_and_together_alike(dataset: PreparedDataset, teacher: Callable[..., BIGRec]) -> None:
    model = teacher(dataset)
    name = model.prompts.names[7]
    texts = ["Nothing known", name, "", "Nothing known", "Something else", name]
    found = model.ground(texts)
    assert found.shape == (6, 16)
    assert torch.equal(found[1], model.items[7])
    torch.testing.assert_close(found, torch.cat([model.ground([text]) for text in texts]))
    torch.testing.assert_close(found[4], model.embed_texts(["Something else"])[0] - model.mean)
    assert torch.equal(model.ground([name]), model.items[7:8])


def test_rows_whose_text_is_poisoned_are_set_aside(dataset: PreparedDataset, teacher: Callable[..., BIGRec]) -> None:
    model = teacher(dataset, beams=1, constrained=True)
    rows = dataset.rows("test")
    ready = model.ready(SignalsConfig(k=4, dtype="fp32", batch_size=5), "cpu")
    whole = ready.rank(dataset, rows)
    prompts = [model.prompts.history(history) for history in histories(dataset)]
    token = next(token for token in prompts[0] if sum(token in prompt for prompt in prompts) < len(rows) / 2)
    with poisoned(model, token):
        rest = ready.rank(dataset, rows)
    good = np.isin(rows, rest.rows)
    assert good.any()
    assert not any(token in prompt for prompt, kept in zip(prompts, good, strict=True) if kept)
    assert np.array_equal(rest.items, whole.items[good])
    with poisoned(model, prompts[0][-1]):
        assert ready.rank(dataset, rows).items.shape == (0, 4), "all prompts end alike"


def test_what_is_not_finite_is_set_aside_or_refused(dataset: PreparedDataset, teacher: Callable[..., BIGRec]) -> None:
    model = teacher(dataset)
    ready = model.ready(SignalsConfig(k=4, dtype="fp32"), "cpu")
    model.items[5:] = torch.nan
    with pytest.raises(UserError, match="item vectors are not all finite"):
        model.ready(SignalsConfig(k=4, dtype="fp32"), "cpu")
    with torch.no_grad():
        model.lm.model.norm.weight.fill_(torch.nan)
    assert ready.rank(dataset, np.array([1])).items.shape == (0, 4)


def test_items_that_share_a_title_share_a_vector(dataset: PreparedDataset, teacher: Callable[..., BIGRec]) -> None:
    titles = [*dataset.catalogue.titles]
    titles[4] = titles[9]
    twins = dataclasses.replace(dataset, catalogue=dataclasses.replace(dataset.catalogue, titles=titles))
    vectors = teacher(twins).item_vectors()
    assert torch.equal(vectors[4], vectors[9])
    assert len(vectors[1:].unique(dim=0)) == 59


def test_it_learns_to_write_titles(
    dataset: PreparedDataset, objective: Callable[..., TitleObjective], tmp_path: Path
) -> None:
    made = objective(dataset, width=32, layers=1, valid_rows=4)
    assert not set(made.model.write(made.model.generator(made.model.lm), [[1], [2]])) & set(made.model.prompts.index)
    config = TrainingConfig(epochs=5, batch_size=8, learning_rate=5e-3)
    result = train_local(made, dataset, config, tmp_path)
    curve = result.progress.curve
    assert curve[-1]["title_loss"] < 0.3 * curve[0]["title_loss"]
    model = made.model.eval()
    assert set(model.write(model.generator(model.lm), [[1], [2]])) <= set(model.prompts.index)
    again = train_local(made, dataset, config, tmp_path)
    assert again.progress.best == result.progress.best


@pytest.mark.parametrize("on_inputs", [True, False])
def test_batches_hold_what_is_to_be_written(
    dataset: PreparedDataset, objective: Callable[..., TitleObjective], on_inputs: bool
) -> None:
    prompts, rows = objective(dataset).model.prompts, dataset.rows("train")[:11]
    shares = [
        PromptBatches(dataset, prompts, rows, on_inputs=on_inputs, batch_size=4, seed=0, rank=rank, world=2)
        for rank in (0, 1)
    ]
    seen = []
    for parts in zip(*(share.epoch(3) for share in shares), strict=True):
        assert sum(int((batch["labels"] >= 0).sum()) for batch, _ in parts) == parts[0][1] == parts[1][1]
        for batch, _ in parts:
            for tokens, inside, labels in zip(batch["tokens"], batch["inside"], batch["labels"], strict=True):
                ids = tokens[inside.bool()].tolist()
                written = labels[labels >= 0].tolist()
                assert ids[-len(written) :] == written
                seen.append((ids, len(written)))
    expected = []
    for row in rows:
        history = prompts.history(dataset.seen(int(row))[-8:].tolist())
        response = prompts.response(int(dataset.items[row]))
        expected.append((history + response, len(history) - 1 + len(response) if on_inputs else len(response)))
    assert sorted(seen) == sorted(expected)


@pytest.mark.parametrize("on_inputs", [True, False])
def test_the_loss_is_that_of_whole_prompts(
    dataset: PreparedDataset, objective: Callable[..., TitleObjective], on_inputs: bool
) -> None:
    made = objective(dataset, train_on_inputs=on_inputs)
    batch, _ = next(made.batches(dataset, TrainingConfig(batch_size=5), rank=0, world=1).epoch(0))
    loss, parts = made(batch)
    loss.backward()
    gradient = made.model.lm.model.embed_tokens.weight.grad.clone()
    made.zero_grad()
    expected = torch.zeros(())
    for tokens, inside, labels in zip(batch["tokens"], batch["inside"], batch["labels"], strict=True):
        ids = torch.cat([torch.tensor(made.model.prompts.prefix), tokens[inside.bool()]])
        logits = made.model.lm(input_ids=ids[None]).logits[0]
        written = int((labels >= 0).sum())
        expected = expected + functional.cross_entropy(logits[-written - 1 : -1], ids[-written:], reduction="sum")
    torch.testing.assert_close(loss, expected, atol=1e-3, rtol=1e-4)
    expected.backward()
    torch.testing.assert_close(gradient, made.model.lm.model.embed_tokens.weight.grad, atol=1e-3, rtol=1e-3)
    assert parts["title_loss"] == loss


@pytest.mark.parametrize("family", ["Llama", "Qwen2", "Qwen3", "Mistral", "Gemma", "Gemma3"])
def test_every_family_trains_and_recommends(dataset: PreparedDataset, tmp_path: Path, cache: str, family: str) -> None:
    tokenizer = load_tokenizer(train_tokenizer(BIGRecConfig(**SMALL), dataset, cache))
    base = save_base(tmp_path / "base", family, tokenizer, len(tokenizer))
    lora = BIGRecLoRAConfig(rank=2) if family != "Llama" and _peft() else None
    config = BIGRecConfig(base=base, max_tokens=400, lora=lora, beams=2, valid_rows=4, train_rows=8)
    inputs = BIGRec.prepare(config, dataset, cache=str(tmp_path / "cache"), student=str)
    made = BIGRec.objective(config, dataset, inputs, seed=0)
    training = TrainingConfig(epochs=1, batch_size=4, learning_rate=0.01)
    result = train_local(made, dataset, training, tmp_path / "run")
    state = made.model.finish(result.state, dataset)
    save_checkpoint(str(tmp_path / "teacher"), made.model, dataset, state=state)
    before = made.model.eval().item_vectors()
    for file in (tmp_path / "base").iterdir():
        file.unlink()
    loaded = load_checkpoint(tmp_path / "teacher").model
    assert torch.equal(loaded.item_vectors(), before)
    assert loaded.write(loaded.generator(loaded.lm), [[1, 2]]) == made.model.write(
        made.model.generator(made.model.lm), [[1, 2]]
    )
    assert len(Recommender.load(tmp_path / "teacher").recommend([["i1"]], k=5)[0]) == 5


def _peft() -> bool:
    import importlib.util

    return importlib.util.find_spec("peft") is not None


def test_adapters_alone_learn_and_titles_keep_the_vectors_of_the_base(
    dataset: PreparedDataset, tmp_path: Path, cache: str
) -> None:
    pytest.importorskip("peft")
    tokenizer = load_tokenizer(train_tokenizer(BIGRecConfig(**SMALL), dataset, cache))
    base = save_base(tmp_path / "base", "Llama", tokenizer, len(tokenizer))
    config = BIGRecConfig(base=base, max_tokens=400, lora=BIGRecLoRAConfig(rank=2), train_rows=16)
    inputs = BIGRec.prepare(config, dataset, cache=str(tmp_path / "cache"), student=str)
    made = BIGRec.objective(config, dataset, inputs, seed=0)
    learning = {name for name, parameter in made.named_parameters() if parameter.requires_grad}
    assert learning and all("lora_" in name for name in learning)
    full = BIGRec.objective(dataclasses.replace(config, lora=None), dataset, {}, seed=0).model.eval()
    full.embed_titles()
    torch.testing.assert_close(made.model.item_vectors(), full.item_vectors())
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    made.model.embed_titles()
    torch.testing.assert_close(made.model.item_vectors(), full.item_vectors())
    ids = torch.tensor([[5, 6, 7]])
    with torch.device("meta"):
        outline = BIGRec(made.model.config, num_items=dataset.num_items)
    assert {name: tensor.shape for name, tensor in outline.state_dict().items()} == {
        name: tensor.shape for name, tensor in made.model.state_dict().items()
    }
    written = made.model.eval().lm(ids).logits
    assert not torch.allclose(written, full.lm(ids).logits)
    save_checkpoint(str(tmp_path / "teacher"), made.model, dataset)
    import peft
    from transformers import AutoModelForCausalLM

    adapter = str(tmp_path / "teacher" / "adapter")
    loaded = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter)
    torch.testing.assert_close(loaded(ids).logits, written)
    wrong = dataclasses.replace(config, lora=BIGRecLoRAConfig(targets=("nothing",)))
    with pytest.raises(UserError, match=r"lora\.targets nothing: .*not found in the base model"):
        BIGRec.objective(wrong, dataset, inputs, seed=0)


def test_gradient_checkpointing_changes_nothing(
    dataset: PreparedDataset, objective: Callable[..., TitleObjective]
) -> None:
    made = objective(dataset)
    batch, total = next(made.batches(dataset, TrainingConfig(batch_size=5), rank=0, world=1).epoch(0))
    losses = []
    for checkpointing in (False, True):
        config = TrainingConfig(checkpointing=checkpointing, accumulation=2)
        engine = build_engine(objective(dataset), config, torch.device("cpu"))
        losses.append([float(engine.step(batch, total, 1e-2)["loss"]) for _ in range(2)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_what_cannot_work_is_refused(dataset: PreparedDataset, tmp_path: Path, cache: str) -> None:
    tokenizer = load_tokenizer(train_tokenizer(BIGRecConfig(**SMALL), dataset, cache))
    base = save_base(tmp_path / "base", "Mistral", tokenizer, len(tokenizer), sliding_window=300)
    with pytest.raises(UserError, match=r"latest 300 tokens only; set teacher\.model\.max_tokens to 300 or less"):
        BIGRec.objective(BIGRecConfig(base=base), dataset, {}, seed=0)


def test_configuration(tmp_path: Path) -> None:
    from recsys.settings import Settings

    def model(*overrides: str) -> object:
        return load_config(Settings, None, overrides).teacher.model

    assert isinstance(model(), HLLMConfig)
    assert isinstance(model("teacher.model.width=64"), HLLMConfig)
    assert model("teacher.model.kind=bigrec", "teacher.model.beams=1") == BIGRecConfig(beams=1)
    assert from_dict(BIGRecConfig, to_dict(BIGRecConfig(base="x", lora=BIGRecLoRAConfig()))).lora == BIGRecLoRAConfig()
    with pytest.raises(UserError, match="lora adapts a trained model"):
        model("teacher.model.kind=bigrec", "teacher.model.lora.rank=4")
    with pytest.raises(UserError, match="no such configuration key; did you mean beams"):
        model("teacher.model.kind=bigrec", "teacher.model.beam=4")
    with pytest.raises(UserError, match="bigrac"):
        model("teacher.model.kind=bigrac")
