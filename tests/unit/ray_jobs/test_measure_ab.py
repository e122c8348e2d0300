import pytest

from ray_jobs import measure_ab
from ray_jobs.cli import build_parser
from ray_jobs.serving import measurement
from recsys.settings import Settings


@pytest.mark.parametrize(
    ("line", "rates", "connections"),
    [
        ([], (), ()),
        (["--rates", "50", "100.5", "--concurrency", "1", "4"], (50.0, 100.5), (1, 4)),
        (["--concurrency", "2"], (), (2,)),
    ],
)
def test_loads_of_the_command_line_are_settings(
    monkeypatch: pytest.MonkeyPatch, line: list[str], rates: tuple[float, ...], connections: tuple[int, ...]
) -> None:
    seen: list[Settings] = []
    monkeypatch.setattr(measurement, "run", lambda settings, **_: seen.append(settings))
    measure_ab.run(Settings(), build_parser(None, measure_ab.add_arguments).parse_args(line))
    assert (seen[0].serving.measure_rates, seen[0].serving.measure_connections) == (rates, connections)
