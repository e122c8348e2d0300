"""Replaying real histories against the arms over HTTP, and what the latencies come to."""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import httpx
import numpy as np

from recsys.data.prepared import PreparedDataset
from recsys.errors import UserError
from recsys.serving.assignment import Arm

TURN = 5
"""Requests a connection sends to one arm before the next arm has its turn."""


@dataclass(frozen=True)
class Sample:
    """One request.

    Attributes:
        seconds: end-to-end, as the client sees it.
        model_ms: what the replica measured.
        error: status or exception where there was no answer.
    """

    arm: Arm
    seconds: float
    model_ms: float = 0.0
    error: str | None = None


@dataclass(frozen=True)
class Replay:
    """What a replay gave.

    Attributes:
        seconds: wall time each arm had.
        cpu: seconds this client itself computed; near the wall time, it measured itself.
    """

    samples: list[Sample]
    seconds: dict[Arm, float]
    cpu: float = 0.0


def sample_histories(dataset: PreparedDataset, count: int, seed: int = 0) -> list[list[str]]:
    """Histories of `count` test rows drawn at random, as a model is shown them: catalogue ids, oldest first.

    Raises:
        UserError: the dataset has no test rows.
    """
    rows = dataset.rows("test")
    if not len(rows):
        raise UserError(f"dataset {dataset.name!r} has no test rows to replay; prepare it again")
    drawn = np.random.default_rng(seed).choice(rows, size=count, replace=count > len(rows))
    items, lengths = dataset.histories(drawn)
    ids = dataset.catalogue.item_ids
    return [[ids[i] for i in row[:length]] for row, length in zip(items.tolist(), lengths.tolist(), strict=True)]


def wait_until_ready(url: str, seconds: float) -> dict[str, Any]:
    """What `/health` says, as soon as it says it: refused connections, 404 and 5xx are normal while a server starts.

    Raises:
        UserError: it did not within `seconds`.
    """
    deadline = time.monotonic() + seconds
    with httpx.Client(trust_env=False, timeout=5) as client:
        while True:
            try:
                answer = client.get(f"{url}/health")
                if answer.status_code == 200:
                    return answer.json()
                seen = f"status {answer.status_code}"
            except (httpx.HTTPError, ValueError) as error:
                seen = type(error).__name__
            if time.monotonic() >= deadline:
                raise UserError(f"no recommendation server answers at {url} ({seen}); start one or name another")
            time.sleep(0.1)


def replay(
    url: str,
    histories: Sequence[Sequence[str]],
    arms: Sequence[Arm],
    *,
    k: int = 10,
    concurrency: int = 1,
    seed: int = 0,
    report: Callable[[int, int], Any] | None = None,
) -> Replay:
    """Send every history to every arm over `concurrency` kept-alive connections.

    The arms take turns of `TURN` requests a connection, in an order that is shuffled anew each round, and never
    overlap: whatever else happens on the machine meanwhile hits all alike.

    Args:
        report: called after each turn with the number of requests sent and the number of all.
    """
    before = time.process_time()
    result = asyncio.run(_replay(url, histories, arms, k, concurrency, seed, report))
    return replace(result, cpu=time.process_time() - before)


async def _replay(
    url: str,
    histories: Sequence[Sequence[str]],
    arms: Sequence[Arm],
    k: int,
    concurrency: int,
    seed: int,
    report: Callable[[int, int], Any] | None,
) -> Replay:
    shuffled = random.Random(seed)
    samples: list[Sample] = []
    seconds: dict[Arm, float] = dict.fromkeys(arms, 0.0)
    limits = httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=60, limits=limits) as client:
        step = TURN * concurrency
        for begin in range(0, len(histories), step):
            for arm in shuffled.sample(list(arms), len(arms)):
                waiting = list(histories[begin : begin + step])

                async def connection(arm: Arm = arm, waiting: list[Sequence[str]] = waiting) -> None:
                    while waiting:
                        samples.append(await _send(client, arm, waiting.pop(), k))

                started = time.perf_counter()
                await asyncio.gather(*(connection() for _ in range(concurrency)))
                seconds[arm] += time.perf_counter() - started
                if report:
                    report(len(samples), len(histories) * len(arms))
    return Replay(samples, seconds)


async def _send(client: httpx.AsyncClient, arm: Arm, history: Sequence[str], k: int) -> Sample:
    body = {"history": list(history), "k": k, "arm": arm}
    started = time.perf_counter()
    try:
        response = await client.post("/recommend", json=body)
    except httpx.HTTPError as error:
        return Sample(arm, time.perf_counter() - started, error=type(error).__name__)
    elapsed = time.perf_counter() - started
    if response.status_code != 200:
        return Sample(arm, elapsed, error=f"status {response.status_code}")
    return Sample(arm, elapsed, model_ms=response.json()["model_ms"])


def summary(replays: Sequence[Replay]) -> dict[Arm, dict[str, Any]]:
    """Per arm: requests, errors by kind, requests per second, and percentiles in milliseconds.

    Percentiles are over answered requests and interpolate linearly; an arm without any has NaN.
    """
    result: dict[Arm, dict[str, Any]] = {}
    for arm in dict.fromkeys(arm for one in replays for arm in one.seconds):
        mine = [sample for one in replays for sample in one.samples if sample.arm == arm]
        answered = [sample for sample in mine if sample.error is None]
        kinds = [sample.error for sample in mine if sample.error is not None]
        seconds = sum(one.seconds.get(arm, 0.0) for one in replays)
        result[arm] = {
            "requests": len(mine),
            "errors": len(kinds),
            "error_kinds": {kind: kinds.count(kind) for kind in sorted(set(kinds))},
            "rps": len(answered) / seconds if seconds else float("nan"),
            **_percentiles("", [1000 * sample.seconds for sample in answered]),
            **_percentiles("model_", [sample.model_ms for sample in answered]),
        }
    return result


def ratios(arms: dict[Arm, dict[str, Any]]) -> dict[str, float]:
    """The comparisons the A/B is for, of medians, as far as their arms were measured."""
    found = {}
    if "teacher" in arms and "student" in arms:
        teacher, student = arms["teacher"], arms["student"]
        found["teacher_over_student"] = teacher["p50_ms"] / student["p50_ms"]
        found["teacher_over_student_model_time"] = teacher["model_p50_ms"] / max(student["model_p50_ms"], 1e-4)
    if "student" in arms and "null" in arms:
        found["student_minus_null_ms"] = arms["student"]["p50_ms"] - arms["null"]["p50_ms"]
        found["student_over_null_p50"] = arms["student"]["p50_ms"] / arms["null"]["p50_ms"]
    return found


def _percentiles(prefix: str, milliseconds: list[float]) -> dict[str, float]:
    values = np.percentile(milliseconds, [50, 95, 99]) if milliseconds else [float("nan")] * 3
    return {f"{prefix}p{p}_ms": float(value) for p, value in zip((50, 95, 99), values, strict=True)}
