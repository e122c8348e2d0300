"""The students' architectures."""

from typing import Annotated, Literal

from recsys.config import Field, configuration


@configuration
class SASRecConfig:
    """Self-attentive sequential recommendation (Kang and McAuley, ICDM 2018), pre-norm."""

    kind: Literal["sasrec"] = "sasrec"
    width: int = Field(default=64, ge=1)
    blocks: int = Field(default=2, ge=1)
    heads: int = Field(default=2, ge=1)
    dropout: float = Field(default=0.2, ge=0, lt=1)
    max_positions: int = Field(default=50, ge=1)

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not divisible by heads {self.heads}; choose heads that divide it")


@configuration
class GRU4RecConfig:
    """Gated recurrent units (Hidasi et al., ICLR 2016)."""

    kind: Literal["gru4rec"] = "gru4rec"
    width: int = Field(default=64, ge=1)
    layers: int = Field(default=1, ge=1)
    dropout: float = Field(default=0.2, ge=0, lt=1)


StudentModelConfig = Annotated[SASRecConfig | GRU4RecConfig, Field(discriminator="kind")]
