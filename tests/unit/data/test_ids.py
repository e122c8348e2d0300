"""Ids in every type, by one rule."""

import decimal

import pyarrow as pa

from recsys.data.ids import normal_ids


def test_ids_that_are_numbers() -> None:
    assert normal_ids(pa.array([1.0, 1.5, None, float("nan"), 2.0**60])).to_pylist() == ["1", "1.5", "", "", ""]
    numbers = [decimal.Decimal("1.00"), decimal.Decimal("1.50"), decimal.Decimal("100.00")]
    assert normal_ids(pa.array(numbers)).to_pylist() == ["1", "1.5", "100"]
    assert normal_ids(pa.array([2**64 - 1, None], pa.uint64())).to_pylist() == [str(2**64 - 1), ""]
