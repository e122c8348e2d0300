import torch

from recsys.data.prepared import PreparedDataset
from recsys.evaluation.latency import single_request_latency


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
    latency = single_request_latency(models, random_dataset, random_dataset.rows("test"), requests=20)
    assert torch.get_num_threads() == before
    rounds = [(calls[n][0], calls[n + 1][0]) for n in range(0, 50, 2)]  # five of each are not timed
    assert set(rounds) == {("a", "b"), ("b", "a")}
    assert [h for n, h in calls if n == "a"] == [h for n, h in calls if n == "b"]
    for name in models:
        assert latency[name]["requests"] == 20
        assert 0 < latency[name]["median_ms"] <= latency[name]["p95_ms"]
