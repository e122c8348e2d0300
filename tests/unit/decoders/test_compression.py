"""Smaller weights of tiny decoders with random weights, in memory and through checkpoints."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from recsys.checkpoint import load_checkpoint, save_checkpoint
from recsys.data.prepared import PreparedDataset
from recsys.decoders.compression import compress
from recsys.decoders.config import CompressionConfig, LowRankConfig
from recsys.decoders.item_encoder import TextEmbeddings
from recsys.decoders.quantised import Int4Linear, Int8Linear, numbers_and_bytes
from recsys.errors import UserError
from recsys.histories import Histories
from recsys.serving.recommender import Recommender
from recsys.teachers.config import E4SRecConfig, HLLMConfig
from recsys.teachers.e4srec import E4SRec
from recsys.teachers.hllm import HLLM
from recsys.teachers.layered import LayeredTeacher

QUARTER = LowRankConfig(rank=0.25, layers=0.5)
WAYS = [
    {"weights": "int8"},
    {"weights": "int4"},
    {"low_rank": QUARTER},
    {"neurons": 0.5},
    {"heads": 0.5},
    {"heads": 0.5, "neurons": 0.3, "low_rank": QUARTER, "weights": "int4"},
]
ITEMS = Histories.of(torch.randint(1, 31, (4, 6), generator=torch.Generator().manual_seed(1)))


def e4srec(**options: Any) -> E4SRec:
    torch.manual_seed(3)
    config: dict[str, Any] = {"kind": "e4srec", "width": 32, "heads": 2, "layers": 4, "dropout": 0.0, **options}
    return E4SRec.build(E4SRecConfig(**config), torch.randn(61, 12)).eval()


def hllm(dataset: PreparedDataset, user_model: str = "from-scratch") -> HLLM:
    torch.manual_seed(3)
    text = TextEmbeddings(torch.randn(61, 10), torch.zeros(61, dtype=torch.bool))
    config = HLLMConfig(width=32, heads=2, hidden=0, layers=4, dropout=0.0, user_model=user_model)
    return HLLM.build(config, dataset, text).eval()


def pretrained(folder: Path) -> str:
    """A Qwen of random weights as transformers saves it; it has biases, and heads that share keys and values."""
    from transformers import AutoConfig, AutoModel

    config = AutoConfig.for_model(
        "qwen2", vocab_size=2, hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, pad_token_id=None, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(7)
    AutoModel.from_config(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def model() -> E4SRec:
    return e4srec()


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("outputs", "inputs"), [(256, 128), (48, 64), (17, 33), (16, 7)])
def test_quantised_layers_say_what_their_rounded_weights_say(outputs: int, inputs: int, bias: bool) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(inputs, outputs, bias=bias)
    x = torch.randn(2, 3, inputs).bfloat16().float()
    exact = linear.weight.detach()

    eight = Int8Linear(linear)
    scale = exact.abs().amax(dim=1, keepdim=True) / 127
    rounded = (exact / scale).round() * scale
    assert (rounded - exact).abs().max() <= scale.max() / 2 + 1e-6
    expected = functional.linear(x, rounded, linear.bias)
    torch.testing.assert_close(eight(x), expected, atol=0.02, rtol=0.02)

    four = Int4Linear(linear)
    q, scales, weights = four.unpack().tolist(), four.scales.float().tolist(), exact.tolist()
    for row in range(outputs):
        for column in range(inputs):
            scale, zero = scales[column // 32][row]
            value = (q[row][column] - 8) * scale + zero
            assert abs(value - weights[row][column]) < 0.6 * scale + 0.01
            weights[row][column] = value
    rounded = torch.tensor(weights)
    torch.testing.assert_close(four(x), functional.linear(x, rounded, linear.bias), atol=0.03, rtol=0.03)


def test_quantised_weights_take_fewer_bytes_and_say_nearly_the_same(model: E4SRec) -> None:
    numbers, size = numbers_and_bytes(model.decoder.layers)
    assert size == 4 * numbers == 4 * sum(parameter.numel() for parameter in model.decoder.layers.parameters())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for weights, share, error in (("int8", 0.31, 0.1), ("int4", 0.21, 0.4)):
        small = compress(model, CompressionConfig(weights=weights))
        small_numbers, small_size = numbers_and_bytes(small.decoder.layers)
        assert small_size < share * size
        assert numbers <= small_numbers <= 1.2 * numbers
        with torch.inference_mode():
            exact, rounded = model.hidden(ITEMS), small.hidden(ITEMS)
        assert not torch.equal(exact, rounded)
        assert (exact - rounded).abs().max() < error * exact.abs().max()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("kind", ["e4srec", "hllm", "hllm on a pretrained model"])
@pytest.mark.parametrize("way", WAYS, ids=lambda way: "+".join(way))
def test_what_is_loaded_is_what_was_saved(
    way: dict[str, Any], kind: str, random_dataset: Callable[..., PreparedDataset], tmp_path: Path
) -> None:
    dataset = random_dataset()
    if kind == "e4srec":
        model: LayeredTeacher = e4srec()
    else:
        model = hllm(dataset, pretrained(tmp_path / "base") if "pretrained" in kind else "from-scratch")
    small = compress(model, CompressionConfig(**way))
    save_checkpoint(str(tmp_path / "small"), small, dataset)
    save_checkpoint(str(tmp_path / "whole"), model, dataset)
    loaded = load_checkpoint(tmp_path / "small").model
    with torch.inference_mode():
        assert torch.equal(loaded.hidden(ITEMS), small.hidden(ITEMS))
    assert numbers_and_bytes(loaded) == numbers_and_bytes(small)
    sizes = {name: (tmp_path / name / "model.safetensors").stat().st_size for name in ("small", "whole")}
    assert sizes["small"] < sizes["whole"]
    history = [["i3", "i5"]]
    answers = Recommender.load(tmp_path / "small").recommend(history, k=5)
    assert answers != [] and answers == Recommender.load(tmp_path / "small").recommend(history, k=5)
    with pytest.raises(UserError, match="compressed already"):
        compress(loaded, CompressionConfig(weights="int8"))
    with pytest.raises(UserError, match="cut the one it was made from"):
        loaded.cut(1)


def test_a_saved_int4_layer_is_in_an_order_of_our_own(model: E4SRec) -> None:
    """What a checkpoint holds must not depend on the processor that wrote it."""
    layer = compress(model, CompressionConfig(weights="int4")).decoder.layers[0].mlp.gate_proj
    saved = layer.state_dict()["weight"]
    q = layer.unpack()
    assert saved.shape == (q.shape[0], q.shape[1] // 2)
    assert torch.equal(saved[5, 3], q[5, 6] + 16 * q[5, 7])


def test_a_damaged_compression_is_one_line(
    model: E4SRec, random_dataset: Callable[..., PreparedDataset], tmp_path: Path
) -> None:
    save_checkpoint(str(tmp_path / "small"), compress(model, CompressionConfig(neurons=0.5)), random_dataset())
    file = tmp_path / "small" / "config.json"
    said = json.loads(file.read_text())
    said["compression"]["neurons"] = 0.4
    file.write_text(json.dumps(said))
    with pytest.raises(UserError, match=r"cannot be read|damaged"):
        load_checkpoint(tmp_path / "small")
    with pytest.raises(ValueError, match="nothing is made smaller"):
        CompressionConfig()


def test_low_rank_is_the_best_approximation_in_fewer_numbers(model: E4SRec) -> None:
    config = LowRankConfig(rank=0.25, layers=0.5, targets=("up_proj",))
    small = compress(model, CompressionConfig(low_rank=config))
    for number, (whole, reduced) in enumerate(zip(model.decoder.layers, small.decoder.layers, strict=True)):
        matrix = whole.mlp.up_proj.weight
        if number < 2:
            assert torch.equal(reduced.mlp.up_proj.weight, matrix)
            continue
        product = reduced.mlp.up_proj[1].weight @ reduced.mlp.up_proj[0].weight
        values = torch.linalg.svdvals(matrix)
        assert int(torch.linalg.matrix_rank(product)) == 8
        torch.testing.assert_close((matrix - product).norm(), values[8:].norm(), atol=1e-4, rtol=1e-3)
        assert torch.equal(reduced.mlp.gate_proj.weight, whole.mlp.gate_proj.weight)
    assert numbers_and_bytes(small)[0] < numbers_and_bytes(model)[0]


def test_the_whole_rank_changes_nothing_and_keeps_its_form(model: E4SRec) -> None:
    same = compress(model, CompressionConfig(low_rank=LowRankConfig(rank=1.0, layers=1.0)))
    assert isinstance(same.decoder.layers[0].mlp.up_proj, nn.Linear)
    # Outputs of layers from scratch are followed by dropout, inside a module of the layer's name.
    assert isinstance(same.decoder.layers[0].mlp.down_proj[0], nn.Linear)
    assert numbers_and_bytes(same) == numbers_and_bytes(model)
    with torch.inference_mode():
        torch.testing.assert_close(same.hidden(ITEMS), model.hidden(ITEMS), atol=1e-4, rtol=1e-4)


def test_pruning_drops_the_weakest_neurons(model: E4SRec) -> None:
    weak = [1, 4, 7]
    with torch.no_grad():
        for layer in model.decoder.layers:
            layer.mlp.up_proj.weight[weak] = 0
    size = model.decoder.layers[0].mlp.up_proj.out_features
    small = compress(model, CompressionConfig(neurons=(size - len(weak)) / size))
    kept = [number for number in range(size) if number not in weak]
    for whole, reduced in zip(model.decoder.layers, small.decoder.layers, strict=True):
        assert torch.equal(reduced.mlp.gate_proj.weight, whole.mlp.gate_proj.weight[kept])
        assert torch.equal(reduced.mlp.down_proj[0].weight, whole.mlp.down_proj[0].weight[:, kept])
    with torch.inference_mode():
        torch.testing.assert_close(small.hidden(ITEMS), model.hidden(ITEMS), atol=1e-5, rtol=1e-4)
    assert numbers_and_bytes(model)[0] - numbers_and_bytes(small)[0] == 4 * 3 * 3 * 32


@pytest.mark.parametrize("shared", [1, 2])
def test_pruning_drops_the_weakest_heads(shared: int) -> None:
    """Of a Llama whose query heads share keys and values by twos, they go by twos."""
    model = e4srec(heads=4, width=32)
    if shared == 2:
        from transformers import AutoModel

        config = model.llm.config
        config.num_key_value_heads = 2
        torch.manual_seed(4)
        model.llm = AutoModel.from_config(config).eval()
        model.llm.set_input_embeddings(None)
    size, groups = 8, 4 // shared
    with torch.no_grad():
        for layer in model.decoder.layers:
            layer.self_attn.v_proj.weight[size : 2 * size] = 0  # the second head, or the second two
    small = compress(model, CompressionConfig(heads=(groups - 1) / groups))
    with torch.inference_mode():
        torch.testing.assert_close(small.hidden(ITEMS), model.hidden(ITEMS), atol=1e-5, rtol=1e-4)
    attention = small.decoder.layers[0].self_attn
    assert attention.k_proj.out_features == size * (groups - 1)
    assert attention.q_proj.out_features == size * shared * (groups - 1)
