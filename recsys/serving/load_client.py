"""A process that sends requests and does nothing else: what measures must not be slowed by what it measures for.

It reads jobs from its standard input, a JSON object a line, and writes what came of each likewise
(`recsys.serving.load` starts it). It imports no more than it needs, so that it starts at once.

    {"url": ..., "arm": ..., "k": 10, "timeout": 5.0, "begin": INSTANT, "histories": [[...], ...],
     "at": [seconds, ...]                    open loop: when each history is sent, whatever became of those before it
     or "connections": 4, "seconds": 10.0}   closed loop: each connection sends when it has its answer

Instants are those of `time.perf_counter`, which on Linux is one clock for all processes of a machine.
"""

import asyncio
import gc
import itertools
import json
import sys
import time
from typing import Any

import httpx

TICK = 0.02
"""Seconds between two looks at how late this process itself comes to run."""
CONNECTIONS = 900
"""Most that a process keeps open, below the usual limit of 1024 files."""
OK, SHED, TIMEOUT = "ok", "shed", "timeout"


async def run(job: dict[str, Any]) -> dict[str, Any]:
    """Do a job.

    Returns:
        `samples`: [scheduled, sent, done, model_ms, outcome] in seconds since the beginning; an outcome is `ok`, `shed`
        (503), `timeout`, or what else went wrong. `lags`: seconds by which this process came late to a tick. `cpu`,
        `seconds`: what it computed, and how long it took.
    """
    samples: list[tuple[float, float, float, float, str]] = []
    lags = [0.0]
    limits = httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS)
    async with httpx.AsyncClient(base_url=job["url"], trust_env=False, timeout=None, limits=limits) as client:
        begin = job["begin"]

        async def ask(history: list[str], scheduled: float) -> None:
            sent = time.perf_counter() - begin
            model_ms = 0.0
            try:
                async with asyncio.timeout_at(asyncio.get_running_loop().time() + scheduled + job["timeout"] - sent):
                    answer = await client.post(
                        "/recommend", json={"history": history, "k": job["k"], "arm": job["arm"]}
                    )
                outcome = OK if answer.status_code == 200 else SHED if answer.status_code == 503 else ""
                if outcome == OK:
                    model_ms = answer.json()["model_ms"]
                outcome = outcome or f"status {answer.status_code}"
            except TimeoutError:
                outcome = TIMEOUT
            except (httpx.HTTPError, ValueError, KeyError) as error:
                outcome = type(error).__name__
            samples.append((scheduled, sent, time.perf_counter() - begin, model_ms, outcome))

        async def tick() -> None:
            while True:
                due = time.perf_counter() + TICK
                await asyncio.sleep(TICK)
                lags.append(time.perf_counter() - due)

        await asyncio.sleep(begin - time.perf_counter())
        ticking = asyncio.create_task(tick())
        before = time.process_time()
        if "at" in job:
            tasks = []
            for at, history in zip(job["at"], job["histories"], strict=True):
                if (ahead := begin + at - time.perf_counter()) > 0:
                    await asyncio.sleep(ahead)
                tasks.append(asyncio.create_task(ask(history, at)))
            await asyncio.gather(*tasks)
        else:
            histories = itertools.cycle(job["histories"])

            async def connection() -> None:
                while (now := time.perf_counter() - begin) < job["seconds"]:
                    await ask(next(histories), now)

            await asyncio.gather(*(connection() for _ in range(job["connections"])))
        ticking.cancel()
        cpu, seconds = time.process_time() - before, time.perf_counter() - begin
    return {"samples": samples, "lags": lags, "cpu": cpu, "seconds": seconds}


def main() -> None:
    gc.freeze()
    print(flush=True)  # it is there
    for line in sys.stdin:
        print(json.dumps(asyncio.run(run(json.loads(line)))), flush=True)


if __name__ == "__main__":
    main()
