import pytest
import torch

from recsys.data.prepared import PreparedDataset
from recsys.evaluation import latency as module
from recsys.evaluation.latency import time_single_requests
from recsys.histories import Histories


def test_every_model_gets_the_same_single_histories_in_turn(random_dataset: PreparedDataset) -> None:
    calls: list[tuple[str, list[int]]] = []

    def scorer(name: str):
        def score(history):
            assert history.items.shape == history.times.shape == (1, int(history.lengths[0]))
            assert torch.get_num_threads() == 1
            calls.append((name, history.items[0].tolist()))
            return torch.zeros(1, random_dataset.num_items + 1)

        return score

    before = torch.get_num_threads()
    models = {"a": scorer("a"), "b": scorer("b")}
    latency = time_single_requests(models, random_dataset, random_dataset.rows("test"), requests=20)
    assert torch.get_num_threads() == before
    rounds = [(calls[n][0], calls[n + 1][0]) for n in range(0, 50, 2)]  # five of each are not timed
    assert set(rounds) == {("a", "b"), ("b", "a")}
    assert [h for n, h in calls if n == "a"] == [h for n, h in calls if n == "b"]
    for name in models:
        assert latency[name]["requests"] == 20
        assert 0 < latency[name]["median_ms"] <= latency[name]["p95_ms"]


def test_the_first_requests_are_not_timed(random_dataset: PreparedDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    class Clock:
        """Time passes only while a model scores."""

        now = 0.0

        def perf_counter(self) -> float:
            return self.now

    clock, calls = Clock(), 0

    def score(histories: Histories) -> torch.Tensor:
        nonlocal calls
        calls += 1
        clock.now += 9.0 if calls <= 5 else 0.002
        return torch.zeros(1, random_dataset.num_items + 1)

    monkeypatch.setattr(module, "time", clock)
    rows = random_dataset.rows("test")
    found = time_single_requests({"a": score}, random_dataset, rows, requests=3)
    assert found == {"a": {"median_ms": pytest.approx(2), "p95_ms": pytest.approx(2), "requests": 3}}


def test_the_number_of_threads_is_put_back(random_dataset: PreparedDataset) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        scores = torch.zeros(1, random_dataset.num_items + 1)
        time_single_requests({"a": lambda *_: scores}, random_dataset, random_dataset.rows("test"), requests=1)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
