from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import DynamicCache

from recsys.data.prepared import PreparedDataset
from recsys.decoders.loading import load_tokenizer
from recsys.teachers.bigrec import generation
from recsys.teachers.bigrec.bigrec import BIGRec
from recsys.teachers.bigrec.config import BIGRecConfig
from recsys.teachers.bigrec.generation import TitleGenerator
from recsys.teachers.bigrec.language_model import train_tokenizer
from tests.unit.teachers.bigrec.conftest import SMALL, poisoned, save_base

CLOSING = list(range(5, 300, 11))  # so many that random models close their texts at various lengths


@pytest.fixture(autouse=True)
def few_tokens_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that even small batches are read in parts of different widths."""
    monkeypatch.setattr(generation, "_TOKENS", {"cpu": 300})


def prompts_of(model: BIGRec, dataset: PreparedDataset, count: int = 24) -> list[list[int]]:
    rows = np.sort(np.concatenate([dataset.rows("valid"), dataset.rows("test")]))[:count]
    return [model.prompts.history(dataset.seen(row).tolist()) for row in rows]


def generator(model: BIGRec, **options: object) -> TitleGenerator:
    prompts = model.prompts
    return TitleGenerator(
        model.lm, prefix=prompts.prefix, closing=CLOSING, end=prompts.end, **{"new_tokens": 12, **options}
    )


def published(model: BIGRec, prompt: list[int], beams: int, new_tokens: int = 12) -> list[int]:
    """transformers' own search, one prompt at a time."""
    ids = torch.tensor([model.prompts.prefix + prompt])
    out = model.lm.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        num_beams=beams,
        do_sample=False,
        max_new_tokens=new_tokens,
        eos_token_id=model.prompts.end,
        pad_token_id=model.prompts.pad,
    )[0, ids.shape[1] :].tolist()
    stops = {model.prompts.end, *CLOSING}
    return out[: next((i + 1 for i, token in enumerate(out) if token in stops), len(out))]


@pytest.mark.parametrize("beams", [1, 2, 4])
def test_it_writes_what_generate_writes(dataset: PreparedDataset, teacher: Callable[..., BIGRec], beams: int) -> None:
    model = teacher(dataset)
    prompts = prompts_of(model, dataset)
    written = generator(model, beams=beams, batch_size=7).generate(prompts)
    assert written == [published(model, prompt, beams) for prompt in prompts]
    assert len({len(tokens) for tokens in written}) > 1, "all texts are equally long: the test shows little"
    assert any(tokens[-1] in CLOSING for tokens in written)


@pytest.mark.parametrize("family", ["Qwen2", "Qwen3", "Mistral", "Gemma", "Gemma3"])
def test_other_families_write_what_generate_writes(
    dataset: PreparedDataset, tmp_path: Path, cache: str, family: str
) -> None:
    tokenizer = load_tokenizer(train_tokenizer(BIGRecConfig(**SMALL), dataset, cache))
    base = save_base(tmp_path / "base", family, tokenizer, len(tokenizer), initializer_range=0.5)
    model = BIGRec.objective(BIGRecConfig(base=base, max_tokens=400), dataset, {}, seed=0).model.eval()
    prompts = prompts_of(model, dataset, 6)
    written = generator(model, beams=2, batch_size=4).generate(prompts)
    assert written == [published(model, prompt, 2) for prompt in prompts]


def test_the_prefix_cache_changes_nothing(dataset: PreparedDataset, teacher: Callable[..., BIGRec]) -> None:
    model = teacher(dataset)
    prompts = prompts_of(model, dataset)[:5]
    shared = generator(model, beams=2)._prefill(prompts)[0]
    for row, prompt in enumerate(prompts):
        alone = DynamicCache()
        ids = torch.tensor([model.prompts.prefix + prompt[:-1]])
        with torch.inference_mode():
            model.lm(ids, past_key_values=alone, use_cache=True)
        for one, other in zip(shared.layers, alone.layers, strict=True):
            torch.testing.assert_close(one.keys[row, :, : ids.shape[1]], other.keys[0])
            torch.testing.assert_close(one.values[row, :, : ids.shape[1]], other.values[0])


@pytest.mark.parametrize("beams", [1, 4])
def test_constrained_it_writes_titles(dataset: PreparedDataset, teacher: Callable[..., BIGRec], beams: int) -> None:
    model = teacher(dataset, constrained=True, beams=beams)
    texts = model.write(model.generator(model.lm, batch_size=5), [[1, 2], [3], [4, 5, 6], [7], [8], [9, 1]])
    assert set(texts) <= set(model.prompts.index)


def test_constrained_to_one_title_it_writes_that(
    random_dataset: Callable[..., PreparedDataset], teacher: Callable[..., BIGRec]
) -> None:
    model = teacher(random_dataset(items=1), constrained=True)
    assert model.write(model.generator(model.lm), [[1]]) == ["Film number 1"]


@pytest.mark.parametrize(("beams", "constrained"), [(1, True), (4, False)])
def test_a_poisoned_prompt_has_no_text_and_harms_no_other(
    dataset: PreparedDataset, teacher: Callable[..., BIGRec], beams: int, constrained: bool
) -> None:
    model = teacher(dataset, beams=beams, constrained=constrained)
    prompts = [model.prompts.history([item, 2]) for item in range(3, 15)]
    whole = model.generator(model.lm, batch_size=5).generate(prompts)
    token = model.prompts.titles[7][-1]
    assert 0 < sum(token in prompt for prompt in prompts) < len(prompts) / 2
    generator = model.generator(model.lm, batch_size=5)
    with poisoned(model, token):
        written = generator.generate(prompts)
    assert any(written)
    for prompt, before, after in zip(prompts, whole, written, strict=True):
        assert after is None if token in prompt else after in (None, before)  # where one of its beams wrote that token


def test_equal_prompts_are_written_to_once(
    dataset: PreparedDataset, teacher: Callable[..., BIGRec], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = teacher(dataset)
    seen: list[int] = []
    made = model.generator(model.lm)
    monkeypatch.setattr(made, "generate", lambda prompts: seen.append(len(prompts)) or [[1]] * len(prompts))
    assert len(model.write(made, [[1], [2], [1], [1]])) == 4
    assert seen == [2]
