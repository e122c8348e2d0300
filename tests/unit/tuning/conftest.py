"""Records of made-up trials, and a ledger that is told of them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from recsys.config import digest, from_dict
from recsys.tracking import Run
from recsys.tuning.config import SweepConfig
from recsys.tuning.ledger import Ledger
from recsys.tuning.records import Record, Started, TrialStore
from recsys.tuning.search import Search


def made_up(number: int, values: list[float], parameters: dict[str, Any] | None = None, **facts: Any) -> Record:
    """A record whose validation metric takes `values`, an epoch each."""
    curve = [
        {"epoch": epoch, "loss": 1.0, "valid_ndcg@10": value, "train_seconds": 1.0, "valid_seconds": 0.5}
        for epoch, value in enumerate(values, start=1)
    ]
    standard: dict[str, Any] = {
        "digest": f"{number:032d}",
        "number": number,
        "parameters": parameters or {"model.width": number},
        "status": "finished" if values else "failed",
        "metric": "ndcg@10",
        "quality": max(values, default=None),
        "best_epoch": values.index(max(values)) + 1 if values else 0,
        "curve": curve,
        "train_seconds": 1.5 * len(values),
        "seconds": 1.5 * len(values) + 0.1,
        "elapsed": 10.0 * (number + 1),
    }
    return Record(**(standard | facts))


@pytest.fixture
def record() -> Callable[..., Record]:
    return made_up


CONFIG = from_dict(
    SweepConfig, {"student": "s", "parameters": {"model.dropout": {"kind": "uniform", "low": 0, "high": 1}}}
)


class Sweep:
    """A ledger on a store, and the search that it tells."""

    def __init__(self, folder: Path, seconds: float | None = None) -> None:
        self.folder, self.store = folder, TrialStore(str(folder))
        self.opened: list[Started] = []
        records, interrupted = self.store.list_ended(), self.store.list_interrupted()
        self.search = Search(CONFIG, digest, records=records, first=[s.parameters for s in interrupted])
        self.ledger = Ledger(
            self.store,
            self.search,
            digest=digest,
            metric="ndcg@10",
            epochs=3,
            trials=4,
            records=records,
            interrupted=interrupted,
            open_run=self.open,
            weights=str(folder / "weights"),
            seconds=seconds,
        )

    def open(self, started: Started) -> Run:
        assert self.store.find_started(started.digest) is not None, "a run has a trial before it is opened"
        self.opened.append(started)
        return Run(id=started.run or f"run-{started.number}")

    def begin(self, trial: str) -> Mapping[str, Any]:
        parameters = self.search.ask()
        assert parameters is not None
        self.ledger.propose(parameters)
        self.ledger.start(trial, parameters)
        return parameters

    def leave(self, trial: str) -> None:
        """What a trial does whose epoch was its best."""
        self.folder.joinpath("weights").mkdir(exist_ok=True)
        self.folder.joinpath("weights", f"{trial}.safetensors").write_text(f"weights of {trial}")

    def epoch(self, trial: str, number: int, value: float, **facts: Any) -> None:
        record = {"epoch": number, "loss": 1.0, "valid_ndcg@10": value, "train_seconds": 2.0, "valid_seconds": 1.0}
        self.ledger.note_result(
            trial, {"quality": value, "record": record, "finished": number == 3, "size": 7, **facts}
        )
