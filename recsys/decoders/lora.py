"""Low-rank adapters on a frozen decoder, by peft."""

from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor, nn

from recsys.decoders.config import LoRAConfig
from recsys.errors import UserError

_ADAPTER = "default"


def add_adapters(decoder: Any, config: LoRAConfig) -> None:
    """Freeze a decoder and give its target layers adapters that change nothing yet.

    Raises:
        UserError: peft is not installed, or the decoder has no such layers.
    """
    try:
        import peft
    except ImportError:
        raise UserError(
            "lora needs the package peft; install the extra: pip install 'recsys-distill[lora]', or leave lora out"
        ) from None
    names = _targets(decoder, config) or list(config.targets)  # where there are none, peft says so
    settings = _settings(config, names)
    decoder.requires_grad_(False)
    try:
        peft.inject_adapter_in_model(settings, decoder, adapter_name=_ADAPTER)
    except ValueError as error:
        raise UserError(f"lora.targets {', '.join(config.targets)}: {' '.join(str(error).split())[:200]}") from None


def _targets(decoder: nn.Module, config: LoRAConfig) -> list[str]:
    """Full names of the layers to adapt; one from scratch has dropout behind it, within a module of its name."""
    return [
        f"{name}.0" if isinstance(module, nn.Sequential) else name
        for name, module in decoder.named_modules()
        if any(f".{name}".endswith(f".{target}") for target in config.targets)
    ]


def adapters(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The adapters' own tensors in the state of a model."""
    return {name: tensor for name, tensor in state.items() if ".lora_" in name}


def save_adapters(state: dict[str, Tensor], config: LoRAConfig, base: str, directory: Path) -> None:
    """Write adapters as peft does, for `PeftModel.from_pretrained(model, directory)`.

    Args:
        state: `adapters` of a model of the class of `model`, whose pretrained weights are those of `base`.
        base: transformers id or path.
    """
    directory.mkdir()
    _settings(config, list(config.targets), base_model_name_or_path=base, inference_mode=True).save_pretrained(
        str(directory)
    )
    tensors = {f"base_model.model.{name.replace(f'.{_ADAPTER}.', '.')}": tensor for name, tensor in state.items()}
    save_file(
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
        directory / "adapter_model.safetensors",
        metadata={"format": "pt"},
    )


def _settings(config: LoRAConfig, targets: list[str], **more: Any) -> Any:
    import peft

    return peft.LoraConfig(
        r=config.rank, lora_alpha=config.alpha, lora_dropout=config.dropout, target_modules=targets, **more
    )


def merge_adapters(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """`state` of a model whose adapters are folded into the weights they adapt, under the names it had without them."""
    result = {name: tensor for name, tensor in state.items() if ".lora_" not in name}
    for name, module in model.named_modules():
        if not hasattr(module, "get_delta_weight"):
            continue
        for part in ("weight", "bias"):
            if f"{name}.base_layer.{part}" in result:
                result[f"{name}.{part}"] = result.pop(f"{name}.base_layer.{part}")
        delta = module.get_delta_weight(_ADAPTER)
        result[f"{name}.weight"] = result[f"{name}.weight"] + delta.to(result[f"{name}.weight"].dtype)
    return result
