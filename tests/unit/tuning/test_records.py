"""The store of records, and what is read from records, against plain code."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from recsys.tuning.records import Record, Started, TrialStore, best, front, short_names

Make = Callable[..., Record]


def test_what_ended_and_what_was_interrupted(tmp_path: Path, record: Make) -> None:
    store = TrialStore(str(tmp_path / "trials"))
    assert store.records() == [] and store.list_interrupted() == []
    for number in (2, 0, 1):
        store.start(Started(digest=f"{number:032d}", number=number, parameters={"a": number}, run=f"r{number}"))
    ended = [record(2, [0.1, 0.3]), record(0, [], reason="training diverged")]
    for one in ended:
        store.end(one)
    assert store.records() == [ended[1], ended[0]], "by number, every field as it was"
    assert [started.number for started in store.list_interrupted()] == [1]
    assert store.list_interrupted()[0].run == "r1"


def test_a_file_cut_short_counts_as_none(tmp_path: Path, record: Make) -> None:
    store = TrialStore(str(tmp_path))
    whole = record(0, [0.1])
    store.start(Started(digest=whole.digest, number=0, parameters={}))
    (tmp_path / f"{whole.digest}.json").write_text(json.dumps(dataclasses.asdict(whole))[:50])
    assert store.records() == []
    assert [started.number for started in store.list_interrupted()] == [0], "it is tried again"


def test_best_and_front_against_plain_loops(record: Make) -> None:
    generator = np.random.default_rng(0)
    for _ in range(20):
        records = [
            record(n, [round(float(generator.random()), 1)], size=int(generator.integers(1, 6)), latency_ms=None)
            for n in range(12)
        ] + [record(12, [])]
        able = [r for r in records if r.quality is not None]
        assert best(records) == next(r for r in able if r.quality == max(x.quality for x in able))

        def beats(a: Record, b: Record) -> bool:
            no_worse = a.quality >= b.quality and a.size <= b.size
            return no_worse and ((a.quality, a.size) != (b.quality, b.size) or a.number < b.number)

        plain = [r for r in able if not any(beats(other, r) for other in able)]
        assert front(records, "parameters") == sorted(plain, key=lambda r: r.size)
        assert front(records, "latency") == []
    assert best([record(0, [])]) is None


def test_short_names_tell_parameters_apart() -> None:
    keys = ["distillation.ranking.weight", "model.width", "model.weight", "loss.beta", "distillation.ranking.beta"]
    assert list(short_names(keys).values()) == ["ranking.weight", "width", "model.weight", "loss.beta", "ranking.beta"]
    assert short_names(["a", "b.a"]) == {"a": "a", "b.a": "b.a"}


def test_what_a_member_of_a_population_was_at_its_best_epoch(record: Make) -> None:
    changes = [{"epoch": 2, "from": 1, "parameters": {"a": 2}}, {"epoch": 4, "from": 3, "parameters": {"a": 3}}]
    for best_epoch, chosen in ((1, 1), (2, 1), (3, 2), (4, 2), (5, 3)):
        values = [float(epoch == best_epoch) for epoch in range(1, 6)]
        assert record(0, values, {"a": 1}, changes=changes).chosen == {"a": chosen}
