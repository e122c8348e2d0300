"""How a language model is adapted; apart from `lora.py` so that reading a configuration imports no PyTorch."""

from recsys.config import Field, configuration


@configuration
class LoRAConfig:
    """Low-rank adapters (Hu et al., ICLR 2022) on a frozen language model, by peft; merged when a checkpoint is saved.

    Attributes:
        targets: names of the linear layers that get one; these are the ones of E4SRec and SLMRec.
    """

    rank: int = Field(default=16, ge=1)
    alpha: int = Field(default=16, ge=1)
    dropout: float = Field(default=0.05, ge=0, lt=1)
    targets: tuple[str, ...] = ("gate_proj", "up_proj", "down_proj")
