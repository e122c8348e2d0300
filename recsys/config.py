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

from recsys import fields
from recsys.errors import UserError

__all__ = [
    "Field",
    "NotInKey",
    "beyond_defaults",
    "configuration",
    "copy_with",
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
    strict = ConfigDict(extra="forbid", validate_default=True, allow_inf_nan=False)
    made: Any = pydantic_dataclass(frozen=True, kw_only=True, config=strict)(cls)
    return made


def load_config(cls: type[T], path: str | Path | None, overrides: Sequence[str] = ()) -> T:
    """Read `path` (YAML) into `cls`, then apply overrides of the form `section.key=value` (`recsys.fields`).

    Raises:
        UserError: the file cannot be read or is not YAML, an override is malformed, or a key or value is not accepted.
    """
    values: dict[str, Any] = {}
    if path is not None:
        try:
            loaded = yaml.safe_load(Path(path).read_bytes())
        except FileNotFoundError:
            raise UserError(f"config file {path} does not exist") from None
        except IsADirectoryError:
            raise UserError(f"config file {path} is a folder; name a YAML file in it") from None
        except OSError as error:
            raise UserError(f"config file {path} cannot be read: {error.strerror}") from None
        except (yaml.YAMLError, ValueError, RecursionError) as error:  # a date that is none is a ValueError
            raise UserError(f"config file {path} is not valid YAML: {' '.join(str(error).split())}") from None
        if not isinstance(loaded or {}, dict):
            raise UserError(f"config file {path} must hold a mapping of keys to values")
        values = loaded or {}
    for override in overrides:
        _apply_override(cls, values, override)
    return from_dict(cls, values)


def from_dict(cls: type[T], values: dict[str, Any]) -> T:
    """Build `cls` from plain values, every error as one line."""
    try:
        return TypeAdapter(cls).validate_python(values)
    except ValidationError as error:
        sentences = "; ".join(_sentence(cls, e) for e in error.errors())
        raise UserError(" ".join(sentences.splitlines())) from None


def copy_with(config: T, **values: Any) -> T:
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
    kept: dict[str, Any] = _keep_keyed(config, to_dict(config) if defaults else beyond_defaults(config))
    return kept


def _keep_keyed(value: Any, plain: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        hints = get_type_hints(type(value), include_extras=True)
        return {
            name: _keep_keyed(getattr(value, name), inner)
            for name, inner in plain.items()
            if not any(isinstance(mark, _NotInKey) for mark in getattr(hints[name], "__metadata__", ()))
        }
    if isinstance(value, dict):
        return {name: _keep_keyed(value[name], inner) for name, inner in plain.items()}
    return plain


def digest(value: Any) -> str:
    """SHA-256 (hex) of a configuration or of plain JSON values; equal values give equal digests."""
    plain = to_dict(value) if dataclasses.is_dataclass(value) else value
    return hashlib.sha256(json.dumps(plain, sort_keys=True, default=str).encode()).hexdigest()


def _apply_override(cls: type, values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key.strip():
        raise UserError(f"override {override!r} is not of the form key=value, for example training.epochs=5")
    path, types = fields.parts(cls, key.strip(), values)
    try:
        _set(values, path, fields.read(text, types))
    except UserError as error:
        raise UserError(f"override {override!r}: {error}") from None


def set_value(values: dict[str, Any], key: str, value: Any) -> None:
    """Set the value at a key with dots for sections, making sections that are not there.

    Raises:
        UserError: a part of the key before the last is a value already.
    """
    _set(values, key.split("."), value)


def _set(values: dict[str, Any], path: Sequence[str], value: Any) -> None:
    *parents, last = path
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
    location = ".".join(str(part) for part in error["loc"] if part != "[key]") or "configuration"
    if error["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        known = fields.names(cls, error["loc"][:-1])
        close = difflib.get_close_matches(str(error["loc"][-1]), known, n=1)
        mend = f"did you mean {close[0]}?" if close else f"known keys: {', '.join(known)}"
        return f"{location}: no such configuration key; {mend}"
    message = error["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if error["type"] == "value_error":
        return f"{location}: {message}"
    return f"{location}: {message} (got {error['input']!r})"
