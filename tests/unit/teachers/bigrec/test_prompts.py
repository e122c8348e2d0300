import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from recsys.data.prepared import PreparedDataset
from recsys.decoders.loading import load_tokenizer
from recsys.errors import UserError
from recsys.teachers.bigrec.config import BIGRecConfig
from recsys.teachers.bigrec.language_model import train_tokenizer
from recsys.teachers.bigrec.prompts import Prompts

TITLES = [
    "",
    'The "Best"  Film\n(1995)',
    "",
    "Déjà Vu (1997)",
    "Déjà Vu (1997)",
    "An " + "endless " * 40,
    "東京物語" * 20,
]


@pytest.fixture
def dataset(random_dataset: Callable[..., PreparedDataset]) -> PreparedDataset:
    made = random_dataset(items=len(TITLES) - 1)
    return dataclasses.replace(made, catalogue=dataclasses.replace(made.catalogue, titles=TITLES), titles_hash="")


def prompts_of(dataset: PreparedDataset, tmp_path: Path, **options: object) -> Prompts:
    config = BIGRecConfig(**{"vocabulary": 300, "title_tokens": 24, **options})
    return Prompts(load_tokenizer(train_tokenizer(config, dataset, str(tmp_path))), dataset.catalogue, config)


def test_the_prompt_reads_as_published(dataset: PreparedDataset, tmp_path: Path) -> None:
    prompts = prompts_of(dataset, tmp_path, noun="video game", plural="video games", verb="played")
    tokens = prompts.prefix + prompts.history([3, 1]) + prompts.response(4)
    assert prompts.tokenizer.decode(tokens) == (
        "Below is an instruction that describes a task, paired with an input that provides further context. Write a "
        "response that appropriately completes the request.\n\n### Instruction:\nGiven a list of video games the user "
        "has played before, please recommend a new video game that the user likes to the user.\n\n### Input:\nThe user "
        'has played the following video games before:"Déjà Vu (1997)", "The \'Best\' Film (1995)"\n\n### Response:\n'
        '"Déjà Vu (1997)"<|end|>'
    )


def test_a_text_is_embedded_as_it_is_or_by_the_published_template(dataset: PreparedDataset, tmp_path: Path) -> None:
    for pooling, template in [
        ("last", "{}"),
        ("mean", "{}"),
        ("prompt_eol", 'This sentence : "{}" means in one word:"'),
    ]:
        prompts = prompts_of(dataset, tmp_path, pooling=pooling)
        for text in ("Heat (1995)", "Déjà Vu (1997)"):
            assert prompts.tokenizer.decode(prompts.for_embedding(text)) == template.format(text)


def test_gaps_are_told_in_words(dataset: PreparedDataset, tmp_path: Path) -> None:
    prompts = prompts_of(dataset, tmp_path, time_gaps=True)
    day = 86400
    times = [5, 5, 65, 65 + day, 65 + 41 * day, 65 + 1000 * day, -1, 70 + 1000 * day]
    text = prompts.tokenizer.decode(prompts.history([1, 2, 3, 4, 1, 2, 3, 4], times))
    said = [part.strip(", ") for part in text.partition("\n")[0].split('"')[2:-1:2]]
    assert said == ["moments later", "minutes later", "a day later", "a month later", "years later", "", ""]
    assert prompts.history([1, 2]) == prompts.history([1, 2], [-1, -1])
    without = prompts_of(dataset, tmp_path)
    assert without.history([1, 2], [5, 65]) == without.history([1, 2])
    assert "later" not in without.tokenizer.decode(without.history([1, 2], [5, 65]))


def test_names_are_what_titles_can_be_told_by(dataset: PreparedDataset, tmp_path: Path) -> None:
    prompts = prompts_of(dataset, tmp_path)
    assert prompts.names[:5] == ["", "The 'Best' Film (1995)", "movie i2", "Déjà Vu (1997)", "Déjà Vu (1997)"]
    assert prompts.index["Déjà Vu (1997)"] == 3
    for item in (5, 6):
        assert TITLES[item].startswith(prompts.names[item]) and prompts.names[item]
        assert len(prompts.titles[item]) <= 24
    assert set(prompts.names[6]) == set("東京物語"), "cut between characters"
    for item in range(1, len(TITLES)):
        assert prompts.text(prompts.response(item)) == prompts.names[item]


def test_text_ends_at_the_first_quotation_mark(dataset: PreparedDataset, tmp_path: Path) -> None:
    prompts = prompts_of(dataset, tmp_path)
    tokens = prompts.tokenizer(' A film" and more"', add_special_tokens=False)["input_ids"]
    assert prompts.text(tokens) == "A film"
    assert prompts.text(tokens[:3]) == prompts.tokenizer.decode(tokens[:3]).strip()


def test_long_histories_lose_their_oldest_items(dataset: PreparedDataset, tmp_path: Path) -> None:
    prompts = prompts_of(dataset, tmp_path, history=3)
    assert prompts.history([3, 1, 4, 2]) == prompts.history([1, 4, 2])
    whole = prompts.history([1, 4, 2])
    limit = len(prompts.prefix) + len(whole) + 24 + 2
    assert prompts_of(dataset, tmp_path, history=3, max_tokens=limit + 2).history([1, 4, 2]) == whole
    assert prompts_of(dataset, tmp_path, history=3, max_tokens=limit - 2).history([1, 4, 2]) == prompts.history([4, 2])


def test_no_room_is_one_sentence(dataset: PreparedDataset, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"teacher\.model\.max_tokens is 100, but the prompt"):
        prompts_of(dataset, tmp_path, max_tokens=100)


def test_the_tokenizer_is_made_once(dataset: PreparedDataset, tmp_path: Path) -> None:
    first = train_tokenizer(BIGRecConfig(), dataset, str(tmp_path))
    made = (Path(first) / "tokenizer.json").stat().st_mtime_ns
    assert train_tokenizer(BIGRecConfig(width=64), dataset, str(tmp_path)) == first
    assert (Path(first) / "tokenizer.json").stat().st_mtime_ns == made
    assert train_tokenizer(BIGRecConfig(vocabulary=301), dataset, str(tmp_path)) != first
