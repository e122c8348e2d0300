"""From a title to the vector of an item that a student has never met.

A distilled student's item vector is an offset of its own plus the projected embedding of the teacher
(`recsys.students.items.DistilledItemTable`). A new item has no offset yet, but where the teacher's embedding comes from
the title, all the rest can be computed: the title as the item language model reads it, standardised as the teacher
standardises it, fitted as the teacher fits it, standardised and projected as the student does.

Legend: M items, W width of the item language model, Z of the teacher's embeddings, D of the student's vectors.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from recsys.config import configuration, digest, from_dict, to_dict
from recsys.decoders.config import ItemEncoderConfig
from recsys.decoders.item_encoder import encode
from recsys.decoders.loading import identity
from recsys.errors import UserError

FILE = "title_projector.safetensors"
_CONFIG = "title_projector"


@configuration
class TitleProjectorConfig:
    """What the tensors of a title projector do not say.

    Attributes:
        encoder: the item language model that reads titles.
        model: digest of what tells that model from others of its name.
        unit: of the text vectors, whether they are scaled to unit length once the mean is taken off (as the sequential
            rules do), not by `text.scale`.
        mix: weight of the projection.
    """

    encoder: ItemEncoderConfig
    model: str
    unit: bool = False
    mix: float = 1.0


@dataclass(frozen=True)
class TitleSide:
    """How a teacher makes its embedding of an item from the text vector of its title.

    Attributes:
        mean, scale: [W] what text vectors are standardised by; without a scale they are scaled to unit length.
        fit: weights of a teacher that fits them further, by the names of `recsys.teachers.hllm`; {} for none.
    """

    encoder: ItemEncoderConfig
    mean: Tensor
    scale: Tensor | None
    fit: Mapping[str, Tensor]


@dataclass(frozen=True)
class TitleProjector:
    """What a checkpoint keeps, in a file of its own, to give new items vectors.

    Attributes:
        tensors: `text.mean`, `text.scale` [W]; `fit.…` where the teacher fits texts; `teacher.mean`, `teacher.scale`
            [Z]; `projector.…` of the student.
    """

    config: TitleProjectorConfig
    tensors: Mapping[str, Tensor]

    @classmethod
    def of(
        cls, side: TitleSide, projector: Mapping[str, Tensor], mean: Tensor, scale: Tensor, mix: float
    ) -> "TitleProjector":
        """
        Args:
            projector: weights of the student's projector by their names in it.
            mean, scale: [Z] what the student standardises the teacher's embeddings by.
        """
        parts = {"text.mean": side.mean, "teacher.mean": mean, "teacher.scale": scale}
        if side.scale is not None:
            parts["text.scale"] = side.scale
        parts |= {f"fit.{name}": tensor for name, tensor in side.fit.items()}
        parts |= {f"projector.{name}": tensor for name, tensor in projector.items()}
        config = TitleProjectorConfig(
            encoder=side.encoder, model=digest(identity(side.encoder.model)), unit=side.scale is None, mix=mix
        )
        return cls(config, {name: tensor.detach().cpu().float().contiguous() for name, tensor in parts.items()})

    def save(self, directory: Path) -> None:
        save_file(dict(self.tensors), directory / FILE, metadata={_CONFIG: json.dumps(to_dict(self.config))})

    @classmethod
    def load(cls, directory: Path) -> "TitleProjector | None":
        """What `save` wrote; None where there is none."""
        if not (directory / FILE).exists():
            return None
        with safe_open(directory / FILE, "pt") as file:
            config = from_dict(TitleProjectorConfig, json.loads((file.metadata() or {})[_CONFIG]))
            return cls(config, {name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118

    def read(self, titles: Sequence[str]) -> Tensor:
        """Vectors of items with these titles, [M, D] float32.

        Raises:
            UserError: the item language model is not there, or is another one of the same name.
        """
        encoder = self.config.encoder
        if digest(identity(encoder.model)) != self.config.model:
            raise UserError(
                f"the item language model {encoder.model!r} is not the one that read the titles of the checkpoint; "
                "use that one, or train the student again"
            )
        return self.project(encode(["", *titles], encoder).vectors[1:])

    @torch.no_grad()
    def project(self, text: Tensor) -> Tensor:
        """Vectors of items [M, D] by what the item language model says of their titles [M, W], of unit length."""
        x = text - self.tensors["text.mean"]
        x = F.normalize(x, dim=-1) if self.config.unit else x / self.tensors["text.scale"]
        if "fit.project.weight" in self.tensors:
            x = self._linear(x, "fit.project")
            if "fit.mlp.layers.1.weight" in self.tensors:
                normal = F.layer_norm(
                    x, x.shape[-1:], self.tensors["fit.mlp.layers.0.weight"], self.tensors["fit.mlp.layers.0.bias"]
                )
                x = x + self._linear(F.gelu(self._linear(normal, "fit.mlp.layers.1")), "fit.mlp.layers.4")
            x = F.normalize(x, dim=-1)
        x = (x - self.tensors["teacher.mean"]) / self.tensors["teacher.scale"]
        if "projector.weight" in self.tensors:
            x = self._linear(x, "projector")
        else:
            x = self._linear(F.gelu(self._linear(x, "projector.0")), "projector.2")
        return self.config.mix * x

    def _linear(self, x: Tensor, name: str) -> Tensor:
        return F.linear(x, self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"])
