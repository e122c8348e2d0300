"""Int8 and low rank on tiny decoders with random weights."""

import pytest
import torch
from torch import nn

from recsys.teachers.compression import int8, low_rank, numbers_and_bytes, pruned
from recsys.teachers.config import E4SRecConfig, LowRankConfig
from recsys.teachers.e4srec import E4SRec

ITEMS = torch.randint(1, 31, (4, 6), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def model() -> E4SRec:
    torch.manual_seed(3)
    config = E4SRecConfig(kind="e4srec", width=32, heads=2, layers=4, dropout=0.0)
    return E4SRec.build(config, torch.randn(31, 12)).eval()


def test_int8_takes_a_quarter_of_the_bytes_and_says_nearly_the_same(model: E4SRec) -> None:
    numbers, size = numbers_and_bytes(model.decoder.layers)
    assert size == 4 * numbers == 4 * sum(parameter.numel() for parameter in model.decoder.layers.parameters())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    small = int8(model)
    small_numbers, small_size = numbers_and_bytes(small.decoder.layers)
    assert small_size < 0.31 * size
    assert numbers <= small_numbers <= 1.1 * numbers
    with torch.inference_mode():
        exact, rounded = model.hidden(ITEMS), small.hidden(ITEMS)
    assert not torch.equal(exact, rounded)
    assert (exact - rounded).abs().max() < 0.1 * exact.abs().max()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_low_rank_is_the_best_approximation_in_fewer_numbers(model: E4SRec) -> None:
    small = low_rank(model, LowRankConfig(rank=0.25, layers=0.5, targets=("up_proj",)))
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
    same = low_rank(model, LowRankConfig(rank=1.0, layers=1.0))
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
    small = pruned(model, (size - len(weak)) / size)
    kept = [number for number in range(size) if number not in weak]
    for whole, reduced in zip(model.decoder.layers, small.decoder.layers, strict=True):
        assert torch.equal(reduced.mlp.gate_proj.weight, whole.mlp.gate_proj.weight[kept])
        assert torch.equal(reduced.mlp.down_proj[0].weight, whole.mlp.down_proj[0].weight[:, kept])
    with torch.inference_mode():
        torch.testing.assert_close(small.hidden(ITEMS), model.hidden(ITEMS), atol=1e-5, rtol=1e-4)
    assert numbers_and_bytes(model)[0] - numbers_and_bytes(small)[0] == 4 * 3 * 3 * 32
