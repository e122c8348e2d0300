"""Ids of users and items are normalised here, by one rule: in the log, in the catalogue and in requests alike.

An id is text in the composed form of Unicode (NFC), without white space, control characters or byte order marks at its
ends, and a whole number is written without `.0`, which is what pandas makes of a column of integers with gaps. All else
distinguishes: case, leading zeros, inner blanks.
"""

import re
import unicodedata
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys.errors import UserError

_EDGES = re.compile(r"^[\s\x00-\x1f\x7f\ufeff\u200b]+|[\s\x00-\x1f\x7f\ufeff\u200b]+$")
_WHOLE = re.compile(r"[+-]?[0-9]+\.0")
_FIRST_PLAIN, _LAST_PLAIN = np.uint8(0x21), np.uint8(0x7E)  # printable ASCII without the blank
_EXACT = 2.0**53  # floats beyond no longer tell neighbouring whole numbers apart


def normal_id(text: str) -> str:
    """The id that is meant by `text`; "" where there is none.

    >>> normal_id(" caf\\u0065\\u0301 "), normal_id("17.0"), normal_id("1.10"), normal_id(" \\x00")
    ('café', '17', '1.10', '')
    """
    text = _EDGES.sub("", text if text.isascii() else unicodedata.normalize("NFC", text))
    return text.removesuffix(".0") if _WHOLE.fullmatch(text) else text


def normal_ids(values: pa.Array | pa.ChunkedArray) -> pa.Array:
    """`normal_id` of a column of any type that `require_ids` lets pass: strings, "" where an id is missing, is no text
    (bytes that are not UTF-8), or is a float so large that its neighbours are no longer distinct."""
    values = flatten(values)
    if pa.types.is_floating(values.type):
        numbers = pc.cast(values, pa.float64())
        usable = pc.and_(pc.is_finite(numbers), pc.less_equal(pc.abs(numbers), _EXACT))
        numbers = pc.if_else(usable, numbers, pa.scalar(None, pa.float64()))
        whole = pc.equal(numbers, pc.floor(numbers))
        integers = pc.cast(pc.if_else(whole, numbers, pa.scalar(None, pa.float64())), pa.int64())
        values = pc.coalesce(pc.cast(integers, pa.string()), pc.cast(numbers, pa.string()))
    elif pa.types.is_decimal(values.type):
        text = pc.cast(values, pa.string())
        values = pc.replace_substring_regex(text, r"(\.\d*?)0+$", r"\1")
        values = pc.replace_substring_regex(values, r"\.$", "")
    elif _is_binary(values.type):
        values = _normalise_each(pc.cast(values, pa.binary()))
    elif not pa.types.is_string(values.type):
        values = pc.cast(values, pa.string())
    values = pc.fill_null(values, "")
    return values if _is_plain(values) else _normalise_each(pc.cast(values, pa.binary()))


def require_ids(path: str, name: str, kind: pa.DataType) -> None:
    """Refuse a column whose values are no ids.

    Raises:
        UserError: it holds truth values, times, lists or the like.
    """
    inner = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not (
        is_text(inner)
        or _is_binary(inner)
        or pa.types.is_integer(inner)
        or pa.types.is_floating(inner)
        or pa.types.is_decimal(inner)
        or pa.types.is_null(inner)
    ):
        raise UserError(
            f"column {name!r} of {path.rpartition('/')[2]} is of type {kind}; ids are text or whole numbers"
        )


def is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def flatten(values: pa.Array | pa.ChunkedArray) -> Any:
    """A column as one array, dictionaries resolved."""
    array = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    if isinstance(array, pa.ChunkedArray):  # an empty chunked array combines to itself in some versions
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], array.type)
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def _is_binary(kind: pa.DataType) -> bool:
    return (
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_fixed_size_binary(kind)
        or pa.types.is_binary_view(kind)
    )


def _is_plain(values: pa.Array) -> bool:
    """Whether all of these strings are surely normal: a look at the bytes, as most logs need no more."""
    content = values.buffers()[2]
    if content is None:
        return True
    codes = np.frombuffer(content, np.uint8) - _FIRST_PLAIN
    return bool((codes <= _LAST_PLAIN - _FIRST_PLAIN).all()) and not pc.any(pc.ends_with(values, ".0")).as_py()


def _normalise_each(values: pa.Array) -> pa.Array:
    """The rule applied to each distinct value (binary): "" where it is missing or not UTF-8."""
    encoded = values.dictionary_encode()
    normal = []
    for value in encoded.dictionary.to_pylist():
        try:
            normal.append(normal_id(value.decode()))
        except UnicodeDecodeError:
            normal.append("")
    return pc.fill_null(pa.array(normal, pa.string()).take(encoded.indices), "")
