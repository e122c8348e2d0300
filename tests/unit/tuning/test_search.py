"""What is proposed: inside the space, never twice, and after an interruption as well."""

from collections.abc import Callable
from typing import Any

import pytest

from recsys.config import digest, from_dict
from recsys.tuning.config import SweepConfig, grid
from recsys.tuning.records import Record
from recsys.tuning.search import Search, importances

Make = Callable[..., Record]
SPACE = {
    "rate": {"kind": "loguniform", "low": 1e-4, "high": 1e-1},
    "dropout": {"kind": "uniform", "low": 0, "high": 0.5},
    "blocks": {"kind": "int", "low": 1, "high": 5, "step": 2},
    "form": {"kind": "choice", "values": ["sigmoid", "softmax"]},
}


def sweep(parameters: dict[str, Any] = SPACE, **values: Any) -> SweepConfig:
    return from_dict(SweepConfig, {"student": "s", "parameters": parameters, **values})


def run(config: SweepConfig, make: Make, count: int, records: list[Record], first: Any = ()) -> list[Record]:
    """`count` trials, each told before the next; quality depends on the rate alone."""
    search = Search(config, digest, records=records, first=first)
    made = list(records)
    for _ in range(count):
        parameters = search.ask()
        if parameters is None:
            break
        quality = 1 - abs(parameters.get("rate", 0) - 0.01)
        made.append(
            make(len(made), [quality], parameters, digest=digest(parameters), size=10 + len(made), latency_ms=1.0)
        )
        search.tell(made[-1])
    return made


@pytest.mark.parametrize("kind", ["tpe", "random"])
def test_proposals_lie_in_the_space_and_are_the_same_again(kind: str, record: Make) -> None:
    config = sweep(search=kind, trials=15)
    records = run(config, record, 15, [])
    assert len({r.digest for r in records}) == 15
    for one in records:
        assert all(config.parameters[key].holds(value) for key, value in one.parameters.items())
    assert [r.parameters for r in run(config, record, 15, [])] == [r.parameters for r in records]
    assert [r.parameters for r in run(sweep(search=kind, seed=1), record, 3, [])] != [r.parameters for r in records[:3]]


@pytest.mark.parametrize("objectives", [["quality"], ["quality", "parameters"], ["quality", "parameters", "latency"]])
def test_an_interrupted_search_goes_on_without_repeating(objectives: list[str], record: Make) -> None:
    config = sweep(trials=12, objectives=objectives)
    records = run(config, record, 6, [])
    records.append(record(6, [], {"rate": 0.1, "dropout": 0.1, "blocks": 1, "form": "sigmoid"}, reason="diverged"))
    half_done = {"rate": 0.02, "dropout": 0.25, "blocks": 3, "form": "softmax"}
    records = run(config, record, 5, records, first=[half_done])
    assert records[7].parameters == half_done, "what was interrupted comes first"
    assert len({r.digest for r in records}) == 12


def test_what_comes_first_is_tried_once(record: Make) -> None:
    own = {"rate": 0.01, "dropout": 0.2, "blocks": 3, "form": "softmax"}
    records = run(sweep(), record, 4, [], first=[own, own])
    assert [r.parameters == own for r in records] == [True, False, False, False]


def test_a_grid_is_tried_whole_and_once(record: Make) -> None:
    space = {"blocks": SPACE["blocks"], "form": SPACE["form"]}
    config = sweep(space, search="grid")
    records = run(config, record, 100, [], first=[{"blocks": 3, "form": "softmax"}])
    key = lambda point: sorted(map(str, point.items()))  # noqa: E731
    assert sorted((r.parameters for r in records), key=key) == sorted(grid(config.parameters), key=key)
    again = run(config, record, 100, records[:4])
    assert sorted((r.parameters for r in again), key=key) == sorted(grid(config.parameters), key=key)


def test_a_space_that_is_used_up_ends_the_search(record: Make) -> None:
    config = sweep({"form": SPACE["form"]}, trials=10)
    assert len(run(config, record, 10, [])) == 2
    search = Search(config, digest)
    assert [bool(search.ask()), bool(search.ask()), search.used_up, search.ask(), search.used_up] == [
        True,
        True,
        False,
        None,
        True,
    ]


def test_the_parameter_that_matters_is_found(record: Make) -> None:
    config = sweep(search="random")
    shares = importances(config, run(config, record, 40, []))
    assert max(shares, key=shares.__getitem__) == "rate" and shares["rate"] > 0.5
    assert sum(shares.values()) == pytest.approx(1)
    assert importances(config, run(config, record, 3, [])) == {}
    equal = [record(n, [0.5], r.parameters) for n, r in enumerate(run(config, record, 8, []))]
    assert importances(config, equal) == {}
