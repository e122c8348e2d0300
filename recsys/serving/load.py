"""Load at a rate, and at a number of connections: what latency users see when others ask as well.

In an *open loop* requests come when users come (a Poisson process), whatever became of those before, and the latency of
each counts from when it was due. In a *closed loop* a client that waits sends nothing, so that a server that stalls is
asked less just then ("coordinated omission"; Gil Tene, "How NOT to measure latency"; Schroeder, Wierman,
Harchol-Balter, "Open Versus Closed: A Cautionary Tale", NSDI 2006).
"""

import contextlib
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recsys.errors import UserError
from recsys.evaluation.percentiles import bootstrap_percentiles
from recsys.serving.assignment import Arm
from recsys.serving.load_client import OK, SHED, TIMEOUT

LEVELS = (50.0, 90.0, 95.0, 99.0)
ENOUGH_FOR_P999 = 10_000
"""Requests from which on a percentile of 99.9 is told."""
BLOCKS = 20
"""Stretches of time that are resampled as a whole: what is slow comes together."""
GRID = np.concatenate([np.arange(0, 99, 1.0), np.linspace(99, 100, 21)])
"""Percentiles of a stored distribution."""
BUSY, LATE_MS = 0.8, 5.0
"""A client that computes for more of the time, or sends or runs later at its 99th percentile, measures itself."""


@dataclass(frozen=True)
class Objective:
    """What users are promised: 99 % of the answers within `p99_ms`, and less than `failed` without an answer."""

    p99_ms: float
    failed: float = 0.01


@dataclass(frozen=True)
class Trace:
    """When requests are due and what they ask.

    Attributes:
        at: seconds since the beginning, ascending.
        histories: as many.
    """

    at: np.ndarray
    histories: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Load:
    """What came of one arm's requests, in the order in which they were due.

    Attributes:
        at, late, seconds: [R] when each was due, how much later it was sent, and its latency since it was due.
        model_ms: [R] 0 where there was no answer.
        outcome: [R] `ok`, `shed`, `timeout`, or another error.
        busy: share of the time that the busiest client computed.
        lags: seconds by which clients came late to run at all, looked at again and again.
    """

    at: np.ndarray
    late: np.ndarray
    seconds: np.ndarray
    model_ms: np.ndarray
    outcome: np.ndarray
    busy: float
    lags: np.ndarray


def draw_trace(rate: float, seconds: float, histories: Sequence[Sequence[str]], seed: int = 0) -> Trace:
    """Poisson arrivals at `rate` a second, histories in turns; at least one."""
    generator = np.random.default_rng(seed)
    gaps = generator.exponential(1 / rate, size=int(rate * seconds + 10 * (rate * seconds) ** 0.5) + 10)
    at = np.cumsum(gaps)
    at = at[: max(1, int(np.searchsorted(at, seconds)))]
    return Trace(at, [histories[n % len(histories)] for n in range(len(at))])


class Clients:
    """Processes that send requests; each takes its share."""

    def __init__(self, processes: Sequence["subprocess.Popen[str]"], *, k: int, timeout: float) -> None:
        self._processes = processes
        self._k, self._timeout = k, timeout

    def send(self, url: str, arm: Arm, trace: Trace) -> Load:
        """Send every request when it is due."""
        count = len(self._processes)
        return self._run(
            url,
            arm,
            [
                {"at": trace.at[n::count].tolist(), "histories": [list(h) for h in trace.histories[n::count]]}
                for n in range(count)
            ],
        )

    def keep_busy(
        self, url: str, arm: Arm, histories: Sequence[Sequence[str]], *, connections: int, seconds: float
    ) -> Load:
        """Let each of so many connections send its next request as soon as it has its answer."""
        count = min(connections, len(self._processes))
        shares = [connections // count + (n < connections % count) for n in range(count)]
        return self._run(
            url,
            arm,
            [
                {"connections": share, "seconds": seconds, "histories": [list(h) for h in histories[n::count]]}
                for n, share in enumerate(shares)
            ],
        )

    def _run(self, url: str, arm: Arm, jobs: Sequence[Mapping[str, Any]]) -> Load:
        begin = time.perf_counter() + 0.2
        common = {"url": url, "arm": arm, "k": self._k, "timeout": self._timeout, "begin": begin}
        mine = self._processes[: len(jobs)]
        for process, job in zip(mine, jobs, strict=True):
            assert process.stdin is not None
            process.stdin.write(json.dumps({**common, **job}) + "\n")
            process.stdin.flush()
        done = [json.loads(_read_line(process)) for process in mine]
        rows = sorted(sample for one in done for sample in one["samples"])
        at, sent, answered, model_ms = np.array([row[:4] for row in rows], dtype=float).reshape(-1, 4).T
        return Load(
            at=at,
            late=sent - at,
            seconds=answered - at,
            model_ms=model_ms,
            outcome=np.array([row[4] for row in rows], dtype=object),
            busy=max(one["cpu"] / max(one["seconds"], 1e-9) for one in done),
            lags=np.concatenate([one["lags"] for one in done]),
        )


@contextlib.contextmanager
def start_clients(count: int, *, k: int = 10, timeout: float = 5.0) -> Iterator[Clients]:
    """So many client processes; they end with the block.

    Args:
        timeout: seconds after which a request is given up, since it was due.
    """
    with contextlib.ExitStack() as stack:
        processes = []
        for _ in range(count):
            process = subprocess.Popen(
                [sys.executable, "-m", "recsys.serving.load_client"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            stack.callback(_end, process)
            processes.append(process)
        for process in processes:
            _read_line(process)
        yield Clients(processes, k=k, timeout=timeout)


def _read_line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    if not (line := process.stdout.readline()):
        raise UserError(f"a client that sends requests ended with exit status {process.wait()}; measure again")
    return line


def _end(process: "subprocess.Popen[str]") -> None:
    process.kill()
    process.communicate()


def summarise(load: Load, *, settle: float, seconds: float, objective: Objective) -> dict[str, Any]:
    """Figures of an arm under one load, as JSON values.

    Percentiles are over requests that were answered or given up (with the time that they had waited), with 95 %
    bootstrap intervals over stretches of time. Those that were refused or failed are counted apart.

    Args:
        settle: seconds at the beginning that do not count.
        seconds: that do.
    """
    counted = load.at >= settle
    outcome = load.outcome[counted]
    count = len(outcome)
    waited = np.isin(outcome, (OK, TIMEOUT))
    milliseconds, at = 1000 * load.seconds[counted][waited], load.at[counted][waited]
    answered = outcome == OK
    kinds, numbers = np.unique(outcome[~np.isin(outcome, (OK, SHED, TIMEOUT))].astype(str), return_counts=True)
    failed = 1 - answered.sum() / count if count else 0.0
    levels = (*LEVELS, 99.9) if count >= ENOUGH_FOR_P999 else LEVELS
    times: dict[str, Any] = {}
    if len(milliseconds):
        blocks = np.floor(BLOCKS * (at - settle) / seconds)
        found = bootstrap_percentiles(milliseconds, blocks, levels)
        for level, value, bounds in zip(levels, found.values, found.interval(), strict=True):
            times[f"p{level:g}_ms"] = float(value)
            times[f"p{level:g}_interval_ms"] = [float(bound) for bound in bounds]
        times["max_ms"] = float(milliseconds.max())
        times["distribution_ms"] = describe_distribution(milliseconds)
    late = np.percentile(1000 * load.late[counted], [50, 99]) if count else np.zeros(2)
    lag = np.percentile(1000 * load.lags, 99)
    return {
        "requests": count,
        "answered": int(answered.sum()),
        "shed": int((outcome == SHED).sum()),
        "timeouts": int((outcome == TIMEOUT).sum()),
        "errors": {str(kind): int(number) for kind, number in zip(kinds, numbers, strict=True)},
        "rps": float(answered.sum() / seconds),
        **times,
        "model_p50_ms": float(np.median(load.model_ms[counted][answered])) if answered.any() else None,
        "keeps_objective": bool(answered.any() and times["p99_ms"] <= objective.p99_ms and failed < objective.failed),
        "client": {
            "busy": float(load.busy),
            "late_p50_ms": float(late[0]),
            "late_p99_ms": float(late[1]),
            "lag_p99_ms": float(lag),
            "saturated": bool(load.busy > BUSY or max(late[1], lag) > LATE_MS),
        },
    }


def describe_distribution(milliseconds: Sequence[float] | np.ndarray) -> list[float]:
    """Percentiles at `GRID`."""
    return [round(float(value), 4) for value in np.percentile(milliseconds, GRID)]


def find_highest(rows: Sequence[Mapping[str, Any]], load: str) -> float | None:
    """The highest of the measured loads up to which the objective is kept throughout; None where the least breaks it.

    Args:
        load: the name of the load in the rows, such as `rate`.
    """
    highest = None
    for row in sorted(rows, key=lambda row: row[load]):
        if not row["keeps_objective"]:
            break
        highest = row[load]
    return highest


def measure_load(
    clients: Clients,
    url: str,
    arms: Sequence[Arm],
    histories: Sequence[Sequence[str]],
    *,
    rates: Sequence[float] = (),
    connections: Sequence[int] = (),
    settle: float,
    seconds: float,
    objective: Objective,
    cpu: Callable[[], dict[str, float]] = dict,
    report: Callable[[str], Any] = lambda _: None,
) -> dict[str, Any]:
    """Put every load on every arm, the arms one after another in an order that changes with the load.

    All arms get the same requests at the same instants.

    Args:
        rates: requests a second of open loops.
        connections: numbers of them, of closed loops.
        cpu: seconds that each process of the server has computed so far, where that is known.
        report: called with a line before each.

    Returns:
        `open_loop` and `closed_loop`: arm → one row a load (`summarise`), and `highest`: arm → the highest rate, or
        number of connections, that keeps the objective.
    """
    order = random.Random(0)
    result: dict[str, Any] = {}
    for name, load, values in (
        ("open_loop", "rate", sorted(rates)),
        ("closed_loop", "connections", sorted(connections)),
    ):
        rows: dict[Arm, list[dict[str, Any]]] = {arm: [] for arm in arms}
        for number, value in enumerate(values):
            for arm in order.sample(list(arms), len(arms)):
                report(f"{arm} at {value:g} {'requests a second' if load == 'rate' else 'connections'}")
                before = cpu()
                if load == "rate":
                    done = clients.send(url, arm, draw_trace(value, settle + seconds, histories, seed=number))
                else:
                    done = clients.keep_busy(url, arm, histories, connections=int(value), seconds=settle + seconds)
                row = {load: value, **summarise(done, settle=settle, seconds=seconds, objective=objective)}
                answers = int((done.outcome == OK).sum())
                after = cpu()
                if answers and after:  # what ended meanwhile is not counted
                    spent = sum(seconds - before.get(process, 0.0) for process, seconds in after.items())
                    row["cpu_seconds_per_million"] = 1e6 * spent / answers
                rows[arm].append(row)
        if values:
            result[name] = {"arms": rows, "highest": {arm: find_highest(rows[arm], load) for arm in arms}}
    return result
