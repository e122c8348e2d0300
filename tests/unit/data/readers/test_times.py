"""Times in every spelling, as nanoseconds."""

import pyarrow as pa

from recsys.data.readers.times import SECOND, instants


def test_times_are_read_to_the_nanosecond() -> None:
    texts = {
        "12 ": 12 * SECOND,
        " 12.9 ": 12_900_000_000,
        "-3.5": -3_500_000_000,
        "1e3": 1000 * SECOND,
        "1500000000.123456789": 1_500_000_000_123_456_789,
        "1500000000123.25": 1_500_000_000_123_250_000,
        "1500000000000000001": 1_500_000_000_000_000_001,
        "2020-01-02": 1_577_923_200 * SECOND,
        "2020-01-02 00:00:01": 1_577_923_201 * SECOND,
        "2020-01-02T00:00:02.5Z": 1_577_923_202_500_000_000,
        "2020-01-02T02:00:02+02:00": 1_577_923_202 * SECOND,
        **dict.fromkeys(["soon", "", "nan", "1e400", "12a", "2020-02-30", "9" * 20, "20000000000"]),
    }
    assert instants(pa.chunked_array([list(texts)])).to_pylist() == list(texts.values())
    assert instants(pa.array([1.75, float("nan"), None, 1e30])).to_pylist() == [1_750_000_000, None, None, None]
    assert instants(pa.array([-(2**63), 2**63 - 1, 0, 10**10])).to_pylist() == [None, None, 0, None]
    assert instants(pa.array([1500], pa.timestamp("ms", "Asia/Tokyo"))).to_pylist() == [1_500_000_000]
    assert instants(pa.array([1]), "ms").to_pylist() == [10**6], "a unit that is asked for is not guessed"
