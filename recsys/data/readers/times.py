"""Times of the log as nanoseconds since 1970, from whatever a column holds.

A number says its unit by its size: the time of an event lies between 1973 and 2262, so 1.5e9 counts seconds, 1.5e12
milliseconds, 1.5e15 microseconds and 1.5e18 nanoseconds. Numbers below 1e8 are no dates but an order (positions, days)
and count as seconds; those between the ranges mean nothing and are unreadable. `unit` says instead what is meant.
"""

from collections.abc import Mapping
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys.data.ids import flatten, is_text
from recsys.errors import UserError

TimeUnit = Literal["auto", "s", "ms", "us", "ns"]
SECOND = 10**9
FIRST_DATE = 10**8 * SECOND  # in 1973; smaller times are not dates

_FACTORS: Mapping[str, int] = {"s": SECOND, "ms": 10**6, "us": 10**3, "ns": 1}
_BOUNDS = (1e11, 1e14, 1e17)  # between s, ms, us and ns
_LIMIT = 2**63 - 1
_DATE = r"^\d{4}-\d{2}-\d{2}([ T]\d{2}:\d{2}(:\d{2}([.,]\d{1,9}\d*)?)?(Z|[+-]\d{2}(:?\d{2})?)?)?$"
_FRACTION = r"^(?P<sign>[+-]?)(?P<whole>\d{1,18})\.(?P<part>\d{1,9})\d*$"
_WHOLE = r"^[+-]?(\d{1,18}|[1-8]\d{18})$"
_NOTHING = pa.scalar(None, pa.string())
_NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?$"


def instants(values: pa.Array | pa.ChunkedArray, unit: TimeUnit = "auto") -> pa.Array:
    """Nanoseconds since 1970, int64; null where a value is missing, is no time, or lies outside 1677 to 2262.

    Args:
        values: numbers, text (numbers, or dates as in ISO 8601, UTC where no zone is said), or a time type of Arrow.
    """
    values = flatten(values)
    kind = values.type
    if pa.types.is_timestamp(kind):
        return _scale(pc.cast(values, pa.int64()), kind.unit)
    if pa.types.is_date32(kind):
        return _scale(pc.cast(pc.cast(values, pa.timestamp("s")), pa.int64()), "s")
    if pa.types.is_date64(kind):
        return _scale(pc.cast(values, pa.int64()), "ms")
    if pa.types.is_uint64(kind):
        values = pc.cast(pc.if_else(pc.less(values, pa.scalar(2**63, kind)), values, pa.scalar(None, kind)), pa.int64())
    if pa.types.is_integer(kind):
        return _scale(pc.cast(values, pa.int64()), unit)
    if pa.types.is_floating(kind):
        return _of_floats(pc.cast(values, pa.float64()), unit)
    return _of_text(pc.cast(values, pa.string()), unit)


def require_times(path: str, name: str, kind: pa.DataType, unit: TimeUnit) -> None:
    """Refuse a column whose values are no times.

    Raises:
        UserError: it holds truth values, durations, lists or the like; or it has a unit and one is asked for as well.
    """
    inner = kind.value_type if pa.types.is_dictionary(kind) else kind
    dated = pa.types.is_timestamp(inner) or pa.types.is_date(inner)
    file = path.rpartition("/")[2]
    if dated and unit != "auto":
        raise UserError(f"column {name!r} of {file} is of type {kind}, which says its unit; leave out data.time_unit")
    numeric = pa.types.is_integer(inner) or pa.types.is_floating(inner) or pa.types.is_decimal(inner)
    if not (dated or numeric or is_text(inner) or pa.types.is_null(inner)):
        raise UserError(f"column {name!r} of {file} is of type {kind}; times are numbers, dates or text")


def numbers(values: pa.Array | pa.ChunkedArray) -> pa.Array:
    """float64, null where it is no number."""
    values = flatten(values)
    if pa.types.is_integer(values.type) or pa.types.is_floating(values.type) or pa.types.is_decimal(values.type):
        return pc.cast(values, pa.float64())
    text = pc.utf8_trim_whitespace(pc.cast(values, pa.string()))
    number = pc.match_substring_regex(text, _NUMBER)
    return pc.cast(pc.if_else(number, text, _NOTHING), pa.float64())


def _scale(values: pa.Array, unit: str, parts: np.ndarray | None = None) -> pa.Array:
    """Whole numbers in a unit, and billionths of one ([rows] int64), as nanoseconds."""
    missing = pc.is_null(values).to_numpy(zero_copy_only=False)
    whole = pc.fill_null(values, 0).to_numpy()
    size = np.abs(whole)
    factor: int | np.ndarray
    if unit != "auto":
        factor = _FACTORS[unit]
    elif not len(size) or size.max() < _BOUNDS[0]:
        factor = SECOND
    else:
        factor = np.array(list(_FACTORS.values()))[np.searchsorted(_BOUNDS, size, side="right")]
    beyond = (size < 0) | (size >= _LIMIT // factor)  # |−2⁶³| is negative
    result = np.where(beyond, 0, whole) * factor
    if parts is not None:
        result += parts * factor // SECOND
    return pa.array(result, mask=missing | beyond)


def _of_floats(values: pa.Array, unit: str) -> pa.Array:
    finite = pc.and_(pc.is_finite(values), pc.less(pc.abs(values), 2.0**62))
    values = pc.if_else(finite, values, pa.scalar(None, pa.float64()))
    whole = pc.floor(values)
    parts = pc.fill_null(pc.subtract(values, whole), 0.0).to_numpy()
    return _scale(pc.cast(whole, pa.int64()), unit, np.round(parts * SECOND).astype(np.int64) if parts.any() else None)


def _of_text(text: pa.Array, unit: str) -> pa.Array:
    if (whole := _all_whole(text)) is not None:
        return _scale(whole, unit)
    text = pc.utf8_trim(text, " \t\r\n\x00\xa0\ufeff")
    result = pa.nulls(len(text), pa.int64())
    for reader in (_of_whole, _of_fractions, _of_floating, _of_dates):
        result = pc.coalesce(result, reader(pc.if_else(pc.is_null(result), text, _NOTHING), unit))
        if result.null_count == text.null_count:
            break
    return result


def _all_whole(text: pa.Array) -> pa.Array | None:
    """int64 where every value is written with digits alone, as in most logs; else None."""
    content = text.buffers()[2]
    if content is None or not (np.frombuffer(content, np.uint8) - np.uint8(ord("0")) <= 9).all():
        return None
    try:
        return pc.cast(text, pa.int64())
    except pa.ArrowInvalid:  # an empty one, or one beyond 64 bits
        return None


def _of_whole(text: pa.Array, unit: str) -> pa.Array:
    return _scale(pc.cast(pc.if_else(pc.match_substring_regex(text, _WHOLE), text, _NOTHING), pa.int64()), unit)


def _of_fractions(text: pa.Array, unit: str) -> pa.Array:
    """`1500000000.25`, to the last digit: a float would lose some."""
    found = pc.extract_regex(text, _FRACTION)
    missing = pc.is_null(found)
    whole, part = (
        pc.cast(pc.if_else(missing, _NOTHING, value), pa.int64())
        for value in (pc.struct_field(found, "whole"), pc.utf8_rpad(pc.struct_field(found, "part"), 9, "0"))
    )
    time = _scale(whole, unit, pc.fill_null(part, 0).to_numpy())
    return pc.if_else(pc.equal(pc.struct_field(found, "sign"), "-"), pc.negate(time), time)


def _of_floating(text: pa.Array, unit: str) -> pa.Array:
    return _of_floats(numbers(text), unit)


def _of_dates(text: pa.Array, unit: str) -> pa.Array:  # noqa: ARG001
    """Dates as in ISO 8601, to the nanosecond."""
    text = pc.if_else(pc.match_substring_regex(text, _DATE), text, _NOTHING)
    for pattern, replacement in (
        (r",", "."),
        (r"(\.\d{9})\d+", r"\1"),
        (r"^(.{10})$", r"\1 00:00"),
        (r"^(.{10}[0-9T:. ]+)$", r"\1Z"),  # no zone is said
    ):
        text = pc.replace_substring_regex(text, pattern, replacement)
    return _cast_dates(text)


def _cast_dates(text: pa.Array) -> pa.Array:
    try:
        return pc.cast(pc.cast(text, pa.timestamp("ns", "UTC")), pa.int64())
    except pa.ArrowInvalid:  # one that is not in the calendar: look for it by halves
        if len(text) == 1:
            return pa.nulls(1, pa.int64())
        half = len(text) // 2
        return pa.concat_arrays([_cast_dates(text[:half]), _cast_dates(text[half:])])
