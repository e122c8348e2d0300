"""What happens in a sweep, written down as it happens: a file and an MLflow run a trial, a table in the terminal."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from recsys import storage
from recsys.evaluation.ladder import human_count
from recsys.tracking import Run
from recsys.tuning.records import Record, Started, Status, TrialStore, best, short_names, show
from recsys.tuning.search import Search

_TICK_SECONDS = 10


@dataclass
class _Live:
    started: Started
    run: Run
    begun: float
    restarts: int = 0
    changes: list[dict[str, Any]] = field(default_factory=list)
    curve: dict[int, dict[str, float]] = field(default_factory=dict)
    last: dict[str, Any] = field(default_factory=dict)


class Ledger:
    """Follows the trials of a sweep, in the driver.

    Args:
        digest: of a trial's parameters.
        metric, epochs: what selects, and how many epochs a trial has at most.
        trials: how many there will be, those of `records` among them.
        records, interrupted: what the store holds of trials that ended, and of those that did not.
        weights: folder where trials leave the weights of their best epoch, `<trial>.safetensors`.
        open_run: the MLflow run of a trial that starts; `run` of its argument names one that was opened before.
        seconds: after which trials are stopped for want of time.
    """

    def __init__(
        self,
        store: TrialStore,
        search: Search,
        *,
        digest: Callable[[Mapping[str, Any]], str],
        metric: str,
        epochs: int,
        trials: int,
        records: Sequence[Record],
        interrupted: Sequence[Started],
        open_run: Callable[[Started], Run],
        weights: str = "",
        seconds: float | None = None,
    ) -> None:
        self.records = list(records)
        self._store, self._search, self._digest, self._open_run = store, search, digest, open_run
        self._metric, self._epochs, self._trials, self._weights = metric, epochs, trials, weights
        self._proposed = {started.digest: started for started in interrupted}
        self._next = 1 + max([*(r.number for r in records), *(s.number for s in interrupted)], default=-1)
        self._live: dict[str, _Live] = {}
        self._begun, self._seconds = time.monotonic(), seconds
        self._before = max((record.elapsed for record in store.records()), default=0.0)
        self._told = time.monotonic()
        self._widths: dict[str, int] = {}

    @property
    def elapsed(self) -> float:
        """Seconds of the sweep, interruptions not counted."""
        return self._before + time.monotonic() - self._begun

    @property
    def late(self) -> bool:
        """Whether the time of the sweep is up."""
        return self._seconds is not None and time.monotonic() - self._begun >= self._seconds

    def propose(self, parameters: Mapping[str, Any]) -> None:
        """A trial will begin: it gets its number, and is tried whatever happens from now on."""
        digest = self._digest(parameters)
        if digest not in self._proposed:
            self._proposed[digest] = Started(digest=digest, number=self._next, parameters=dict(parameters))
            self._next += 1
            self._store.start(self._proposed[digest])

    def start(self, trial: str, parameters: Mapping[str, Any]) -> None:
        """A trial begins, or begins again."""
        if trial in self._live:
            return
        started = self._proposed[self._digest(parameters)]
        run = self._open_run(started)
        if run.id != started.run:
            started = replace(started, run=run.id)
            self._store.start(started)
        self._live[trial] = _Live(started, run, time.monotonic())

    def note_result(self, trial: str, result: Mapping[str, Any]) -> None:
        """An epoch was reported, or why there are none."""
        live = self._live[trial]
        live.last.update(result)
        if record := result.get("record"):
            live.curve[int(record["epoch"])] = dict(record)

    def note_loss(self, trial: str, reason: str, kept: int = 0) -> None:
        """The process or node of a trial was lost, and it will begin again after epoch `kept`."""
        live = self._live[trial]
        live.curve = {number: record for number, record in live.curve.items() if number <= kept}
        live.last.clear()
        live.restarts += 1
        self._say(f"  trial {live.started.number}: {reason}; it starts again")

    def note_replacement(self, trial: str, by: str, epoch: int, parameters: Mapping[str, Any]) -> None:
        """A trial of a population goes on from the weights that another has after an epoch, with its own parameters."""
        live, donor = self._live[trial], self._live[by].started.number
        live.changes.append({"epoch": epoch, "from": donor, "parameters": dict(parameters)})
        names = short_names(parameters)
        changed = ", ".join(f"{names[key]} {show(value)}" for key, value in parameters.items())
        self._say(f"  trial {live.started.number} goes on from trial {donor} after epoch {epoch}: {changed}")

    def end(self, trial: str, failure: str = "") -> Record:
        """A trial ended; `failure` says why Ray gave it up."""
        live = self._live.pop(trial)
        record = self._record(live, failure or str(live.last.get("failed", "")))
        if record.status != "cut":  # it starts again, and MLflow would have each epoch twice
            live.run.log_curve(record.curve)
        live.run.log_metrics(
            {
                "best": {record.metric: record.quality},
                "best_epoch": record.best_epoch,
                "parameters": record.size,
                "latency_ms": record.latency_ms,
                "seconds": record.seconds,
            }
        )
        tags = {"status": record.status, "reason": record.reason, "checkpoint": self._keep_weights(trial, live, record)}
        live.run.set_tags({name: value for name, value in tags.items() if value})
        live.run.finish({"failed": "FAILED", "cut": "KILLED"}.get(record.status, "FINISHED"))
        # Last: whatever is killed before is done again, in the same MLflow run.
        self._store.end(record)
        self.records.append(record)
        self._search.tell(record)
        self._print(record)
        return record

    def cut(self) -> None:
        """The time is up: what still runs ends here."""
        for trial in list(self._live):
            self.end(trial)

    def tick(self) -> None:
        """Say what is running, every some seconds."""
        if time.monotonic() - self._told < _TICK_SECONDS:
            return
        running = [
            f"trial {live.started.number} epoch {max(live.curve, default=0)}/{self._epochs}"
            for live in self._live.values()
        ]
        self._say(f"  running: {', '.join(running) or 'nothing yet'}; {self.summarise()}")

    def summarise(self) -> str:
        """Where the sweep stands, in a line."""
        found = best(self.records)
        leader = "" if found is None else f", best {self._metric} {found.quality:.4f} (trial {found.number})"
        ended = sum(record.status != "cut" for record in self.records)
        return f"{ended} of {self._trials} trials ended{leader}, {self.elapsed:.0f} s"

    def _keep_weights(self, trial: str, live: _Live, record: Record) -> str:
        """Keep what a trial that has a quality left of its best epoch; returns where, "" for nowhere."""
        left = storage.join(self._weights, f"{trial}.safetensors")
        if not self._weights or record.quality is None or not storage.exists(left):
            return ""
        uri = self._store.keep(record.digest, left)
        live.run.log_file(uri, "checkpoint")
        return uri

    def _record(self, live: _Live, failure: str) -> Record:
        curve = [live.curve[number] for number in sorted(live.curve)]
        values = [epoch[f"valid_{self._metric}"] for epoch in curve]
        place = max(range(len(values)), key=values.__getitem__, default=None)
        finished = bool(live.last.get("finished")) and not failure
        status: Status = "failed" if failure else "finished" if finished else "cut" if self.late else "stopped"
        reasons = {"cut": "the sweep's time was up", "stopped": f"not among the best after epoch {len(curve)}"}
        return Record(
            digest=live.started.digest,
            number=live.started.number,
            parameters=live.started.parameters,
            status=status,
            reason=failure or reasons.get(status, ""),
            metric=self._metric,
            quality=None if place is None or failure else values[place],
            best_epoch=0 if place is None else int(curve[place]["epoch"]),
            curve=curve,
            changes=live.changes,
            size=live.last.get("size"),
            latency_ms=live.last.get("latency_ms"),
            train_seconds=sum(epoch["train_seconds"] + epoch["valid_seconds"] for epoch in curve),
            seconds=time.monotonic() - live.begun,
            elapsed=self.elapsed,
            worker=live.last.get("worker", ""),
            restarts=live.restarts,
            run=live.started.run,
        )

    def _print(self, record: Record) -> None:
        names = short_names(record.parameters)
        cells = {
            "trial": str(record.number),
            "status": record.status,
            "epochs": f"{record.epochs}/{self._epochs}",
            f"valid {self._metric}": "–" if record.quality is None else f"{record.quality:.4f}",
            "size": "–" if record.size is None else human_count(record.size),
            "ms": "–" if record.latency_ms is None else f"{record.latency_ms:.2f}",
            "s": f"{record.seconds:.1f}",
            **{names[key]: show(value) for key, value in record.chosen.items()},
        }
        if not self._widths:
            self._widths = {name: max(len(name), 8 if name == "status" else 6) for name in cells}
            self._say("  ".join(f"{name:>{width}}" for name, width in self._widths.items()))
        line = "  ".join(f"{cells[name]:>{width}}" for name, width in self._widths.items())
        self._say(line + (f"  {record.reason}" if record.status == "failed" else ""))

    def _say(self, line: str) -> None:
        self._told = time.monotonic()
        print(line, flush=True)
