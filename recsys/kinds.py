"""The kinds of recommender and of distiller: a line for each names its configuration, and that names what it makes.

Modules are imported when a configuration or checkpoint names their kind, so that a student needs no language-model
library, and reading a configuration no PyTorch.
"""

import importlib
from collections import ChainMap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from pydantic import GetCoreSchemaHandler, TypeAdapter, ValidationError
from pydantic_core import CoreSchema, ErrorDetails, InitErrorDetails, PydanticCustomError, core_schema

from recsys.errors import UserError

STUDENTS = {
    "sasrec": "recsys.students.config:SASRecConfig",
    "gru4rec": "recsys.students.config:GRU4RecConfig",
    "caser": "recsys.students.config:CaserConfig",
    "hstu": "recsys.students.config:HSTUConfig",
    "slmrec": "recsys.students.config:SLMRecConfig",
    "compressed": "recsys.students.config:CompressedConfig",
    "hybrid": "recsys.rules.config:HybridConfig",
}
TEACHERS = {
    "hllm": "recsys.teachers.config:HLLMConfig",
    "e4srec": "recsys.teachers.config:E4SRecConfig",
    "bigrec": "recsys.teachers.bigrec.config:BIGRecConfig",
}
DISTILLERS = {
    "hint": "recsys.distillers.hint:HintConfig",
    "htd": "recsys.distillers.htd:HTDConfig",
    "rd": "recsys.distillers.rd:RDConfig",
    "cd": "recsys.distillers.cd:CDConfig",
    "rrd": "recsys.distillers.rrd:RRDConfig",
    "dcd": "recsys.distillers.dcd:DCDConfig",
    "unkd": "recsys.distillers.unkd:UnKDConfig",
}
KINDS = ChainMap({"sequential-rules": "recsys.rules.config:RulesConfig"}, STUDENTS, TEACHERS)


class KindConfig:
    """The configuration of one of several kinds.

    Attributes:
        kind: what configurations and checkpoints call it.
    """

    kind: str


class DistillerConfig(KindConfig):
    """The configuration of a distiller.

    Attributes:
        distiller: `module:class` of it (`recsys.distiller`).
        weight: λ, how much it weighs beside the recommendation loss.
    """

    distiller: ClassVar[str] = ""
    weight: float


class ModelConfig(KindConfig):
    """The configuration of a recommender.

    Attributes:
        recommender: `module:class` of the recommender (`recsys.model`); empty where it is of its teacher's kind.
    """

    recommender: ClassVar[str] = ""


class StudentConfig(ModelConfig):
    """The configuration of a student.

    Attributes:
        maker: `module:function` that makes it of finished models (`recsys.model.Made`); empty where it is trained.
        layered: whether it is a teacher of fewer layers, whose hidden states can be aligned with its teacher's.
        with_rules: whether it is a student with the sequential rules added.
    """

    maker: ClassVar[str] = ""
    layered: ClassVar[bool] = False
    with_rules: ClassVar[bool] = False

    @property
    def trained(self) -> bool:
        return not self.maker

    @property
    def made_from(self) -> str | None:
        """The student that it is cut from or made from, "" for the project's teacher, None where it is of neither."""
        return None

    def check_history(self, longest: int) -> None:
        """Raise a `UserError` where it cannot read histories of `longest` items."""


class TeacherConfig(ModelConfig):
    """The configuration of a teacher."""

    @property
    def built_from(self) -> dict[str, str]:
        """The students of the project that it is built from: field of the configuration → name."""
        return {}

    def with_absolute_folders(self) -> Self:
        """The same teacher, its models that are folders here named so that processes with another working directory
        find them. What `embed_titles` alone reads it finds itself."""
        return self


@dataclass(frozen=True, eq=False)  # hashed by identity: it may stand in a union
class OneOf:
    """Marks a field that takes the configuration of any of some kinds; `default` is the kind where none is given."""

    kinds: Mapping[str, str]
    default: str | None = None

    def types(self) -> list[Any]:
        return [import_place(place) for place in self.kinds.values()]

    def __get_pydantic_core_schema__(self, _: Any, __: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self._validate)

    def _validate(self, value: Any) -> Any:
        if isinstance(value, dict):
            value = {"kind": self.default, **value}
            kind = value["kind"]
        else:
            kind = value.kind if isinstance(value, KindConfig) else None
        if not isinstance(kind, str) or kind not in self.kinds:
            raise PydanticCustomError("kind", "{said}", {"said": f"kind should be one of {', '.join(self.kinds)}"})
        try:
            return TypeAdapter(import_place(self.kinds[kind])).validate_python(value)
        except ValidationError as error:  # told as of a union of all kinds
            raise ValidationError.from_exception_data(kind, [_below(kind, each) for each in error.errors()]) from None


def _below(kind: str, error: ErrorDetails) -> InitErrorDetails:
    place = (kind, *error["loc"])
    return InitErrorDetails(type=error["type"], loc=place, input=error["input"], ctx=error.get("ctx", {}))


def recommender_class(kind: str) -> Any:
    """The recommender of a kind.

    Raises:
        UserError: there is no such kind.
    """
    if kind not in KINDS or not (place := import_place(KINDS[kind]).recommender):
        known = sorted(name for name, config in KINDS.items() if import_place(config).recommender)
        raise UserError(f"unknown model kind {kind!r}; known: {', '.join(known)}")
    return import_place(place)


def import_place(place: str) -> Any:
    """What `module:name` names."""
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)
