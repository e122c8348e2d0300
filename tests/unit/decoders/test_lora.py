"""Adapters: nothing at first, and folded into the weights the product that the paper says (W + α / r · B A)."""

import pytest
import torch

from recsys.decoders.config import LoRAConfig
from recsys.decoders.decoder import new_decoder
from recsys.decoders.lora import adapters, add_adapters, merge_adapters
from recsys.errors import UserError

pytest.importorskip("peft")


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_adapters_folded_in(dropout: float) -> None:
    torch.manual_seed(0)
    options: dict = {"width": 16, "layers": 2, "heads": 2, "max_positions": 32, "dropout": dropout}
    decoder = new_decoder("from-scratch", None, **options).eval()
    before = {name: tensor.clone() for name, tensor in decoder.state_dict().items()}
    config = LoRAConfig(rank=2, alpha=6, targets=("q_proj", "o_proj"))
    add_adapters(decoder, config)
    trained = {name for name, parameter in decoder.named_parameters() if parameter.requires_grad}
    state = decoder.state_dict()
    assert trained == set(adapters(state)) and len(trained) == 2 * 2 * len(config.targets)
    folded = merge_adapters(state, decoder)
    assert folded.keys() == before.keys()
    assert all(torch.equal(folded[name], before[name]) for name in before), "they change nothing yet"

    with torch.no_grad():
        for name, parameter in decoder.named_parameters():
            if name in trained:
                parameter.normal_()
    state = decoder.state_dict()
    folded = merge_adapters(state, decoder)
    adapted = {name for name in before if not torch.equal(folded[name], before[name])}
    assert len(adapted) == 2 * len(config.targets)
    for name in adapted:
        place = name.removesuffix(".weight")
        a, b = (state[f"{place}.lora_{part}.default.weight"] for part in "AB")
        torch.testing.assert_close(folded[name], before[name] + 6 / 2 * b @ a)
    plain = new_decoder("from-scratch", None, **options).eval()
    plain.load_state_dict(folded)
    x = torch.randn(2, 5, 16)
    with torch.no_grad():
        one, other = (each(inputs_embeds=x, use_cache=False).last_hidden_state for each in (decoder.eval(), plain))
    torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_layers_that_are_not_there_are_named() -> None:
    decoder = new_decoder("from-scratch", None, width=16, layers=1, heads=2, max_positions=8, dropout=0.0)
    with pytest.raises(UserError, match=r"lora\.targets c_attn: "):
        add_adapters(decoder, LoRAConfig(targets=("c_attn",)))
