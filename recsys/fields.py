"""What the fields of a configuration take, and hence how the text after `key=` is read.

A field that takes text gets it as it stands: `/data/run #3`, `007` and `yes` are YAML for other things. `null` is none
where a field may have none. Lists and sections are YAML, and what stands in them is read by the same rule.
"""

import dataclasses
import types
import typing
from collections.abc import Iterable, Sequence
from typing import Any

import yaml

from recsys.errors import UserError
from recsys.kinds import OneOf

_PLAIN = (str, int, float, bool, type(None))


def members(tp: Any) -> list[Any]:
    """The types that one stands for: those of a union or of a literal's values, without marks."""
    origin = typing.get_origin(tp)
    if origin is typing.Annotated:
        plain, *marks = typing.get_args(tp)
        kinds = [mark for mark in marks if isinstance(mark, OneOf)]
        return kinds[0].types() if kinds else members(plain)
    if origin in (typing.Union, types.UnionType):
        return [member for arg in typing.get_args(tp) for member in members(arg)]
    if origin is typing.Literal:
        return [type(value) for value in typing.get_args(tp)]
    return [tp]


def at(types_: Iterable[Any], part: str) -> list[Any]:
    """What stands at a key inside values of some types."""
    found: list[Any] = []
    for tp in types_:
        if dataclasses.is_dataclass(tp):
            hints = typing.get_type_hints(tp, include_extras=True)
            found += members(hints[part]) if part in hints else []
        elif typing.get_origin(tp) is dict:
            found += members(typing.get_args(tp)[1])
    return found


def names(cls: Any, location: Sequence[Any]) -> list[str]:
    """Field names of the dataclass that `location` leads to, looking through optionals, unions, dicts and lists."""
    current = sections([cls])
    for part in location:
        current = sections(at(current, str(part))) or current
    return sorted({field.name for owner in current for field in dataclasses.fields(owner)})


def parts(cls: Any, key: str, values: Any) -> tuple[list[str], list[Any]]:
    """A key's parts and what its field takes (nothing where there is no such field).

    Dots part sections; in the names of a mapping (`students`) they are letters where `values` has such a name.
    """
    types_, found, rest = members(cls), [], key
    while rest:
        part = rest.partition(".")[0]
        if isinstance(values, dict) and any(typing.get_origin(tp) is dict for tp in types_):
            known = [name for name in values if rest == name or rest.startswith(f"{name}.")]
            part = max([part, *known], key=len)
        found.append(part)
        types_, rest = at(types_, part), rest[len(part) + 1 :]
        values = values.get(part) if isinstance(values, dict) else None
    return found, types_


def read(text: str, types_: Sequence[Any]) -> Any:
    """The value that a text stands for in a field of these types.

    Raises:
        UserError: it is empty though the field takes no empty text, or no YAML where YAML is asked for.
    """
    if not text.strip() and types_ and (str not in types_ or type(None) in types_):
        raise UserError("nothing stands after the =" + ("; say null for none" if type(None) in types_ else ""))
    if types_ and all(tp in _PLAIN for tp in types_):
        return _read_plain(text, types_)
    if not types_:
        return text  # there is no such field, which is said later
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        return None if node is None else _read_value(node, types_)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError):
        raise UserError("the value is not valid YAML; quote it") from None


def _read_value(node: yaml.Node, types_: Sequence[Any]) -> Any:
    """A YAML node, its texts read by what their fields take."""
    if isinstance(node, yaml.SequenceNode):
        inner = [m for tp in types_ if typing.get_origin(tp) in (list, tuple) for arg in typing.get_args(tp)
                 for m in members(arg) if arg is not ...]  # fmt: skip
        return [_read_value(each, inner) for each in node.value]
    if isinstance(node, yaml.MappingNode):
        pairs = [(_read_yaml(key), value) for key, value in node.value]
        return {key: _read_value(value, at(types_, str(key))) for key, value in pairs}
    plain = [tp for tp in types_ if tp in _PLAIN]
    assert isinstance(node, yaml.ScalarNode)
    if node.style in ("'", '"'):
        return node.value
    return _read_plain(node.value, plain) if plain else _read_yaml(node)


def _read_plain(text: str, types_: Sequence[Any]) -> Any:
    """Text, a number, yes or no, or nothing. What fits none of them is left for the field to refuse."""
    if type(None) in types_ and text == "null":
        return None
    kinds = set(types_) - {type(None)}
    if kinds == {str} or not kinds:
        return text
    if str not in kinds and bool not in kinds:
        for number in (int, float) if float in kinds else (int,):
            try:
                return number(text)
            except ValueError:
                continue
        return text
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):
        return text
    return value if isinstance(value, tuple(kinds)) else text


def _read_yaml(node: yaml.Node) -> Any:
    loader = yaml.SafeLoader("")
    try:
        return loader.construct_object(node, deep=True)
    finally:
        loader.dispose()


def sections(types_: Iterable[Any]) -> list[Any]:
    """The dataclasses among some types or inside their lists and mappings."""
    found: list[Any] = []
    for tp in types_:
        if isinstance(tp, type) and dataclasses.is_dataclass(tp):
            found.append(tp)
        elif typing.get_origin(tp) in (dict, list, tuple):
            found += sections([member for arg in typing.get_args(tp) for member in members(arg)])
    return found
