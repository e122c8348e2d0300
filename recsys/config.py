"""Configuration: YAML and `key=value` overrides fill frozen dataclasses, strictly.

Every component carries its own configuration beside its class::

    @configuration
    class TrainingConfig:
        epochs: int = Field(default=100, ge=1)

Defaults live in the dataclass alone. An unknown key, a wrong type or a value out of range is a `UserError` of one
line that names the key, the value and the mend.
"""

import dataclasses
import difflib
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, dataclass_transform, get_type_hints

import yaml
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as pydantic_dataclass

from recsys.errors import UserError

__all__ = [
    "Field",
    "NotInKey",
    "beyond_defaults",
    "changed",
    "configuration",
    "digest",
    "from_dict",
    "key_values",
    "load_config",
    "set_value",
    "to_dict",
]

T = TypeVar("T")


class _NotInKey:
    """The mark of `NotInKey`."""


NotInKey = Annotated[T, _NotInKey()]
"""A field that says where or how fast work is done, not what comes of it: it is no part of a stage's key."""


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(Field, dataclasses.field))
def configuration(cls: type[T]) -> type[T]:
    """Make `cls` a frozen, keyword-only dataclass whose fields are validated and whose unknown keys are errors."""
    strict = ConfigDict(extra="forbid", validate_default=True)
    made: Any = pydantic_dataclass(frozen=True, kw_only=True, config=strict)(cls)
    return made


def load_config(cls: type[T], path: str | Path | None, overrides: Sequence[str] = ()) -> T:
    """Read `path` (YAML) into `cls`, then apply overrides of the form `section.key=value` (the value is YAML).

    Raises:
        UserError: the file is missing or not YAML, an override is malformed, or a key or value is not accepted.
    """
    values: dict[str, Any] = {}
    if path is not None:
        try:
            loaded = yaml.safe_load(Path(path).read_text())
        except FileNotFoundError:
            raise UserError(f"config file {path} does not exist") from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise UserError(f"config file {path} is not valid YAML: {' '.join(str(error).split())}") from None
        if not isinstance(loaded or {}, dict):
            raise UserError(f"config file {path} must hold a mapping of keys to values")
        values = loaded or {}
    for override in overrides:
        _apply_override(values, override)
    return from_dict(cls, values)


def from_dict(cls: type[T], values: dict[str, Any]) -> T:
    """Build `cls` from plain values, every error as one line."""
    try:
        return TypeAdapter(cls).validate_python(values)
    except ValidationError as error:
        raise UserError("; ".join(_sentence(cls, e) for e in error.errors())) from None


def changed(config: T, **values: Any) -> T:
    """A copy with other values, every error as one line."""
    return from_dict(type(config), to_dict(config) | values)


def to_dict(config: Any) -> dict[str, Any]:
    """The configuration as plain JSON values."""
    return TypeAdapter(type(config)).dump_python(config, mode="json")


def beyond_defaults(config: Any) -> dict[str, Any]:
    """What a configuration says beyond its defaults: a digest of it survives the arrival of new settings.

    The `kind` of a component is a default too; where it matters it has to be added.
    """
    return TypeAdapter(type(config)).dump_python(config, mode="json", exclude_defaults=True)


def key_values(config: Any, *, defaults: bool = True) -> dict[str, Any]:
    """`to_dict` without the fields that are `NotInKey`, at any depth: what a stage's key is a digest of.

    Args:
        defaults: with the values that are their defaults; without them a digest survives the arrival of new settings.
    """
    kept: dict[str, Any] = _keyed(config, to_dict(config) if defaults else beyond_defaults(config))
    return kept


def _keyed(value: Any, plain: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        hints = get_type_hints(type(value), include_extras=True)
        return {
            name: _keyed(getattr(value, name), inner)
            for name, inner in plain.items()
            if not any(isinstance(mark, _NotInKey) for mark in getattr(hints[name], "__metadata__", ()))
        }
    if isinstance(value, dict):
        return {name: _keyed(value[name], inner) for name, inner in plain.items()}
    return plain


def digest(value: Any) -> str:
    """SHA-256 (hex) of a configuration or of plain JSON values; equal values give equal digests."""
    plain = to_dict(value) if dataclasses.is_dataclass(value) else value
    return hashlib.sha256(json.dumps(plain, sort_keys=True, default=str).encode()).hexdigest()


def _apply_override(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key.strip():
        raise UserError(f"override {override!r} is not of the form key=value, for example training.epochs=5")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise UserError(f"override {override!r}: the value is not valid YAML; quote it") from None
    try:
        set_value(values, key.strip(), value)
    except UserError as error:
        raise UserError(f"override {override!r}: {error}") from None


def set_value(values: dict[str, Any], key: str, value: Any) -> None:
    """Set the value at a key with dots for sections, making sections that are not there.

    Raises:
        UserError: a part of the key before the last is a value already.
    """
    *parents, last = key.split(".")
    node = values
    for parent in parents:
        child = node.setdefault(parent, {})
        if child is None:
            child = node[parent] = {}
        if not isinstance(child, dict):
            raise UserError(f"{parent} is not a section")
        node = child
    node[last] = value


def _sentence(cls: type, error: Any) -> str:
    location = ".".join(str(part) for part in error["loc"]) or "configuration"
    if error["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        known = _field_names(cls, error["loc"][:-1])
        close = difflib.get_close_matches(str(error["loc"][-1]), known, n=1)
        mend = f"did you mean {close[0]}?" if close else f"known keys: {', '.join(known)}"
        return f"{location}: no such configuration key; {mend}"
    message = error["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if error["type"] == "value_error":
        return f"{location}: {message}"
    return f"{location}: {message} (got {error['input']!r})"


def _field_names(cls: Any, location: Sequence[Any]) -> list[str]:
    """Field names of the dataclass that `location` leads to, looking through optionals, unions and dicts."""
    import types
    import typing

    def candidates(tp: Any) -> list[Any]:
        if isinstance(tp, type) and dataclasses.is_dataclass(tp):  # what annotates a type may be a dataclass's instance
            return [tp]
        origin = typing.get_origin(tp)
        if origin is typing.Annotated:  # what else it carries are marks, which may be dataclasses too
            return candidates(typing.get_args(tp)[0])
        if origin in (typing.Union, types.UnionType, dict, list, tuple):
            return [c for arg in typing.get_args(tp) for c in candidates(arg)]
        return []

    current = [cls]
    for part in location:
        deeper = []
        for owner in current:
            hints = typing.get_type_hints(owner, include_extras=True)
            if part in hints:
                deeper += candidates(hints[part])
        current = deeper or current
    return sorted({f.name for owner in current for f in dataclasses.fields(owner)})
