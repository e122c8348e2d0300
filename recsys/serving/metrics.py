"""What `GET /metrics` tells Prometheus: requests and times per arm, in buckets for a student of one millisecond."""

import time
from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from recsys.serving.recommender import Recommendation

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS = (
    0.0001, 0.0002, 0.0003, 0.0004, 0.0005, 0.00075, 0.001, 0.00125, 0.0015, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02,
    0.03, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0,
)  # fmt: skip
"""Seconds."""
TENTHS = tuple(n / 10 for n in range(11))
ARM = "recsys.arm"
"""Where the application writes into an ASGI scope which arm a request has got."""
NO_ARM = "none"
"""The arm of requests that were refused before they got one."""


class Metrics:
    """The counters of one replica.

    Args:
        replica: told with every figure: where several replicas answer at one address, each counts for itself.
    """

    def __init__(self, replica: str = "0") -> None:
        self._registry = CollectorRegistry()
        self._replica = replica
        self._requests = Counter(
            "recsys_requests",
            "HTTP requests for recommendations; a 503 found the arm busy or away.",
            ["replica", "path", "arm", "status"],
            registry=self._registry,
        )
        self._seconds = self._histogram(
            "recsys_request_seconds", "Time of an answered request in the application.", "path", "arm"
        )
        self._model = self._histogram("recsys_model_seconds", "Time of the model's pass that gave an answer.", "arm")
        self._queue = self._histogram("recsys_queue_seconds", "Time an answer waited for that pass.", "arm")
        self._fallbacks = Counter(
            "recsys_fallbacks",
            "Popular items in place of an arm's, because nothing of the history is known.",
            ["replica", "arm"],
            registry=self._registry,
        )
        self._teacher_fallbacks = Counter(
            "recsys_teacher_fallbacks",
            "Answers of the student in place of a teacher that did not answer, and why it did not.",
            ["replica", "reason"],
            registry=self._registry,
        )
        self._failures = Counter(
            "recsys_failures",
            "Requests that their arm's model did not answer, why not, and which arm answered in its place (or none).",
            ["replica", "arm", "reason", "answered_by"],
            registry=self._registry,
        )
        self._shadow = Counter(
            "recsys_shadow",
            "What another arm was to compute unseen beside the student's answers, and what came of it.",
            ["replica", "outcome"],
            registry=self._registry,
        )
        self._agreement = Histogram(
            "recsys_shadow_agreement",
            "Share of items that the student's answer and the unseen one have in common.",
            ["replica"],
            buckets=TENTHS,
            registry=self._registry,
        )
        self._shadow_model = self._histogram(
            "recsys_shadow_model_seconds", "Time of the two passes that were compared.", "arm"
        )
        self._feedback = Counter("recsys_feedback", "Events of POST /feedback.", ["replica"], registry=self._registry)

    def _histogram(self, name: str, said: str, *labels: str) -> Histogram:
        return Histogram(name, said, ["replica", *labels], buckets=BUCKETS, registry=self._registry)

    def count_request(self, path: str, arm: str, status: int, seconds: float) -> None:
        self._requests.labels(self._replica, path, arm, str(status)).inc()
        if status == 200:
            self._seconds.labels(self._replica, path, arm).observe(seconds)

    def count_answer(self, arm: str, answer: Recommendation) -> None:
        if answer.checkpoint is not None:
            self._model.labels(self._replica, arm).observe(answer.milliseconds / 1000)
            self._queue.labels(self._replica, arm).observe(answer.waited / 1000)
        elif arm != "null":
            self._fallbacks.labels(self._replica, arm).inc()

    def count_teacher_fallback(self, reason: str) -> None:
        self._teacher_fallbacks.labels(self._replica, reason).inc()

    def count_failures(self, arm: str, reason: str, answered_by: str | None, requests: int) -> None:
        self._failures.labels(self._replica, arm, reason, answered_by or NO_ARM).inc(requests)

    def count_shadow(self, outcome: str) -> None:
        self._shadow.labels(self._replica, outcome).inc()

    def count_agreement(self, agreement: float, compared: Mapping[str, Recommendation]) -> None:
        self.count_shadow("compared")
        self._agreement.labels(self._replica).observe(agreement)
        for arm, answer in compared.items():
            self._shadow_model.labels(self._replica, arm).observe(answer.milliseconds / 1000)

    def count_feedback(self) -> None:
        self._feedback.labels(self._replica).inc()

    def text(self) -> str:
        """In the text format of Prometheus."""
        return generate_latest(self._registry).decode()


class _Several(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> Iterator[Metric]:
        yield from self._families


def merge(texts: Iterable[str]) -> str:
    """The texts of several replicas as one, in which every metric stands once."""
    families: dict[str, Metric] = {}
    for text in texts:
        for family in text_string_to_metric_families(text):
            if not family.name.endswith("_created"):
                families.setdefault(
                    family.name, Metric(family.name, family.documentation, family.type)
                ).samples += family.samples
    return generate_latest(_Several(families.values())).decode()


class Counted:
    """ASGI middleware: counts what was asked at `paths`, and what came of it."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics, paths: frozenset[str]) -> None:
        self.app = app
        self._metrics = metrics
        self._paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] not in self._paths:
            await self.app(scope, receive, send)
            return
        scope[ARM] = NO_ARM
        begun, status = time.perf_counter(), 500

        async def note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, note)
        finally:
            self._metrics.count_request(scope["path"], scope[ARM], status, time.perf_counter() - begun)
