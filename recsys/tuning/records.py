"""What a sweep has tried, as one file per trial, so that nothing finished is ever lost or repeated.

    <sweep>/trials/<digest>.started.json   written before a trial trains
    <sweep>/trials/<digest>.json           written once, whole, when it has ended
    <sweep>/trials/<digest>.safetensors    before that: the weights of its best epoch, where they are kept

The digest is that of the trial's whole configuration and inputs. A trial with the first file alone was interrupted; one
that was cut, because the time of the sweep was up, has both, and starts again where the sweep goes on.
"""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from pyarrow import fs

from recsys import storage

T = TypeVar("T")
Status = Literal["finished", "stopped", "failed", "cut"]
_ENDED, _STARTED, _WEIGHTS = ".json", ".started.json", ".safetensors"


@dataclass(frozen=True, kw_only=True)
class Started:
    """A trial that began.

    Attributes:
        number: from 0, in the order of starting.
        parameters: key → value, what this trial tries.
        run: id of its MLflow run, "" where nothing is recorded.
    """

    digest: str
    number: int
    parameters: dict[str, Any]
    run: str = ""


@dataclass(frozen=True, kw_only=True)
class Record:
    """A trial that ended.

    Attributes:
        status: `finished` used up its epochs or its patience, `stopped` was not worth more, `failed` broke, `cut` ran
            when the time of the sweep was up.
        reason: why it failed or was stopped, in a line.
        metric: the validation metric that selects.
        quality: its best value, None where no epoch was finished.
        best_epoch: epoch (from 1) of that value, 0 for none.
        curve: one record per epoch (`recsys.training.loop`).
        size: numbers the served model keeps.
        latency_ms: median milliseconds of one history, measured in the trial beside whatever else ran.
        train_seconds: in its epochs, validation included.
        seconds: from its start to its end as the driver saw it.
        elapsed: seconds of the sweep, interruptions not counted, when it ended.
        changes: of a population: "epoch" after which it took the weights of trial "from", and its "parameters" since.
        worker: process and node that trained it.
        restarts: how often it began again because its process or node was lost.
    """

    digest: str
    number: int
    parameters: dict[str, Any]
    status: Status
    reason: str = ""
    metric: str
    quality: float | None
    best_epoch: int = 0
    curve: list[dict[str, float]] = field(default_factory=list)
    size: int | None = None
    latency_ms: float | None = None
    train_seconds: float = 0.0
    seconds: float = 0.0
    elapsed: float = 0.0
    changes: list[dict[str, Any]] = field(default_factory=list)
    worker: str = ""
    restarts: int = 0
    run: str = ""

    @property
    def epochs(self) -> int:
        return len(self.curve)

    @property
    def chosen(self) -> dict[str, Any]:
        """The parameters at its best epoch."""
        earlier = [change["parameters"] for change in self.changes if change["epoch"] < self.best_epoch]
        return earlier[-1] if earlier else self.parameters

    def objective(self, name: str) -> float | None:
        """The value of an objective of `SweepConfig`."""
        values = {"quality": self.quality, "parameters": self.size, "latency": self.latency_ms}
        return values[name]


class TrialStore:
    """The records of one sweep under a storage URI."""

    def __init__(self, uri: str) -> None:
        self._uri = uri

    def start(self, started: Started) -> None:
        storage.write_json(self._file(started.digest, _STARTED), dataclasses.asdict(started))

    def end(self, record: Record) -> None:
        storage.write_json(self._file(record.digest, _ENDED), dataclasses.asdict(record))

    def keep(self, digest: str, file: str) -> str:
        """Take over a trial's weights from `file`, another URI of this storage; returns where they are now."""
        uri = self._file(digest, _WEIGHTS)
        system, path = storage.filesystem(file)
        system.move(path, storage.filesystem(uri)[1])
        return uri

    def find_started(self, digest: str) -> Started | None:
        return _read(Started, self._file(digest, _STARTED))

    def records(self) -> list[Record]:
        """What is known of trials that ended or were cut, by number; a damaged file counts as none."""
        found = [_read(Record, self._file(digest, _ENDED)) for digest in self._digests(_ENDED)]
        return sorted((record for record in found if record is not None), key=lambda record: record.number)

    def list_ended(self) -> list[Record]:
        """Trials that are never run again, by number."""
        return [record for record in self.records() if record.status != "cut"]

    def list_interrupted(self) -> list[Started]:
        """Trials that began and were cut or did not end, by number."""
        ended = {record.digest for record in self.list_ended()}
        found = [self.find_started(digest) for digest in self._digests(_STARTED) if digest not in ended]
        return sorted((s for s in found if s is not None), key=lambda started: started.number)

    def _file(self, digest: str, suffix: str) -> str:
        return storage.join(self._uri, digest + suffix)

    def _digests(self, suffix: str) -> list[str]:
        system, path = storage.filesystem(self._uri)
        names = [
            info.base_name
            for info in system.get_file_info(fs.FileSelector(path, allow_not_found=True))
            if info.type == fs.FileType.File
        ]
        return [
            name.removesuffix(suffix)
            for name in names
            if name.endswith(suffix) and (suffix == _STARTED or not name.endswith(_STARTED))
        ]


def _read(kind: type[T], uri: str) -> T | None:
    """A record, or None where it is damaged or of another version."""
    raw = storage.read_json_if_whole(uri)
    try:
        return kind(**raw) if isinstance(raw, dict) else None
    except TypeError:
        return None


def best(records: Sequence[Record]) -> Record | None:
    """The record of highest quality, the earlier of equal ones; None where none has any."""
    able = [record for record in records if record.quality is not None]
    return max(able, key=lambda record: (record.quality, -record.number), default=None)


def short_names(parameters: Iterable[str]) -> dict[str, str]:
    """Short names of parameters: the last part of a key, with as many before it as tell it from the others."""
    names, keys = {}, list(parameters)
    for key in keys:
        parts = key.split(".")
        for count in range(1, len(parts) + 1):
            short = ".".join(parts[-count:])
            if sum(other == short or other.endswith("." + short) for other in keys) == 1:
                break
        names[key] = short
    return names


def front(records: Sequence[Record], cost: str) -> list[Record]:
    """The records that no other beats in both quality and `cost` (an objective that is to be small), cheapest first."""
    able = [(r.objective(cost), r.quality, r) for r in records]
    known = sorted(
        ((c, -q, r.number, r) for c, q, r in able if c is not None and q is not None), key=lambda entry: entry[:3]
    )
    chosen: list[Record] = []
    for _, _, _, record in known:
        if not chosen or (record.quality or 0) > (chosen[-1].quality or 0):
            chosen.append(record)
    return chosen


def show(value: Any) -> str:
    """A parameter's value, short."""
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:.3g}"
    return str(value)
