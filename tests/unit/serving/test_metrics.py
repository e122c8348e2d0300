import asyncio

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.types import Message, Receive, Scope, Send

from recsys.serving.metrics import BUCKETS, Counted, Metrics, merge
from recsys.serving.recommender import Recommendation


def samples(text: str) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *(f"{name}={value}" for name, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_buckets_tell_a_student_of_a_millisecond_from_a_slower_one() -> None:
    assert list(BUCKETS) == sorted(set(BUCKETS))
    assert len([limit for limit in BUCKETS if limit <= 0.002]) >= 10


def test_replicas_count_for_themselves_in_one_text() -> None:
    replicas = [Metrics("a"), Metrics("b")]
    ranked = Recommendation(["i1"], [1.0], [], False, checkpoint="c", milliseconds=0.6, waited=2.5)
    for replica, times in zip(replicas, (1, 3), strict=True):
        for _ in range(times):
            replica.count_request("/recommend", "student", 200, 0.0011)
            replica.count_answer("student", ranked)
            replica.count_answer("null", Recommendation([], [], [], False))
            replica.count_answer("student", Recommendation([], [], [], True))
    text = merge(replica.text() for replica in replicas)
    assert text.count("# TYPE recsys_requests_total counter") == 1
    found = samples(text)
    for name, times in (("a", 1), ("b", 3)):
        labels = ("arm=student", f"replica={name}")
        assert (
            found["recsys_requests_total", "arm=student", "path=/recommend", f"replica={name}", "status=200"] == times
        )
        assert found["recsys_fallbacks_total", *labels] == times, "the null arm's are no fallbacks"
        assert found["recsys_model_seconds_sum", *labels] == pytest.approx(times * 0.0006)
        assert found["recsys_queue_seconds_sum", *labels] == pytest.approx(times * 0.0025)
        for limit, below in (("0.001", 0), ("0.00125", times)):
            bucket = ("recsys_request_seconds_bucket", "arm=student", f"le={limit}", "path=/recommend", labels[1])
            assert found[bucket] == below
    assert not any("_created" in name for name, *_ in found)
    assert samples(merge([text])) == found


def test_an_application_that_fails_counts_as_500_and_other_paths_not_at_all() -> None:
    async def fail(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        pass

    metrics = Metrics()
    app = Counted(fail, metrics=metrics, paths=frozenset({"/recommend"}))
    for path in ("/recommend", "/health"):
        with pytest.raises(RuntimeError):
            asyncio.run(app({"type": "http", "path": path}, receive, send))
    requests = {key: value for key, value in samples(metrics.text()).items() if key[0] == "recsys_requests_total"}
    assert requests == {("recsys_requests_total", "arm=none", "path=/recommend", "replica=0", "status=500"): 1}
