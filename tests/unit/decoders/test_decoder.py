"""Decoders with layers left out, against decoders that never had them, and through files."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel

from recsys.decoders.decoder import choose_layers, config_of, keep_only_layers, new_decoder, outputs_of, save_decoder
from recsys.errors import UserError


def tiny(layers: int = 4, dropout: float = 0.0) -> Any:
    torch.manual_seed(0)
    return new_decoder("from-scratch", None, width=16, layers=layers, heads=2, max_positions=32, dropout=dropout).eval()


def run(decoder: Any, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return decoder(inputs_embeds=x, use_cache=False).last_hidden_state


@pytest.mark.parametrize(("layers", "kept"), [(2, [1, 2]), (4, [1, 2, 3, 4]), ([2, 4], [2, 4])])
def test_layers_are_named_by_number_or_by_how_many(layers: int | list[int], kept: list[int]) -> None:
    assert choose_layers(4, layers) == kept


@pytest.mark.parametrize("layers", [0, 5, [], [0, 1], [2, 1], [1, 1], [5]])
def test_layers_that_are_not_there_are_refused(layers: int | list[int]) -> None:
    with pytest.raises(UserError, match="cannot be kept of a model of 4; name some of 1 to 4"):
        choose_layers(4, layers)


def test_a_decoder_with_some_layers_is_the_chain_of_them() -> None:
    decoder, x = tiny(), torch.randn(2, 5, 16)
    whole, config = run(decoder, x), config_of(decoder)
    with keep_only_layers(decoder, [1, 3]):
        assert config_of(decoder)["num_hidden_layers"] == 2
        part = run(decoder, x)
    assert not torch.allclose(part, whole)
    other = tiny(layers=2)
    state = {name: tensor for name, tensor in decoder.state_dict().items() if not name.startswith("layers.")}
    for new, old in enumerate((0, 2)):
        state |= {f"layers.{new}.{name}": t for name, t in decoder.layers[old].state_dict().items()}
    other.load_state_dict(state)
    torch.testing.assert_close(part, run(other, x))
    torch.testing.assert_close(run(decoder, x), whole, msg="afterwards it is whole again")
    assert config_of(decoder) == config


def test_what_a_layer_gives_is_what_a_shorter_decoder_would_give() -> None:
    decoder, x = tiny(), torch.randn(2, 5, 16)
    with outputs_of(decoder, [2, 4]) as found:
        run(decoder, x)
    assert sorted(found) == [2, 4]
    with keep_only_layers(decoder, [1, 2]), torch.no_grad():
        torch.testing.assert_close(decoder.norm(found[2]), run(decoder, x))


def test_transformers_loads_what_was_saved(tmp_path: Path) -> None:
    decoder, x = tiny(dropout=0.5), torch.randn(2, 5, 16)
    save_decoder(decoder, decoder.state_dict(), tmp_path / "saved")
    loaded = AutoModel.from_pretrained(tmp_path / "saved").eval()
    torch.testing.assert_close(run(loaded, x), run(decoder, x))
