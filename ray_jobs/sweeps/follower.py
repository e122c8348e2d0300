"""What happens in Ray Tune, told to the ledger."""

from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.utils import flatten_dict

from ray_jobs.sweeps.population import RECORDED_EPOCH
from recsys.tuning.ledger import Ledger


class Follower(tune.Callback):
    """Passes on to the ledger what happens in Ray Tune."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    # Ray Tune names all arguments.
    def on_trial_start(self, *, trial: Any, **_: Any) -> None:  # type: ignore[override]
        self._ledger.start(trial.trial_id, trial.config["parameters"])

    def on_trial_result(self, *, trial: Any, result: dict[str, Any], **_: Any) -> None:  # type: ignore[override]
        self._ledger.note_result(trial.trial_id, result)

    def on_trial_complete(self, *, trial: Any, **_: Any) -> None:  # type: ignore[override]
        self._ledger.end(trial.trial_id)

    def on_trial_recover(self, *, trial: Any, **_: Any) -> None:  # type: ignore[override]
        self.on_trial_start(trial=trial)  # what is lost on its way up is news
        kept = trial.latest_checkpoint_result
        epoch = int(flatten_dict(kept.metrics).get(RECORDED_EPOCH, 0)) if kept else 0
        self._ledger.note_loss(trial.trial_id, why_lost(trial), epoch)

    def on_trial_error(self, *, trial: Any, **_: Any) -> None:  # type: ignore[override]
        self.on_trial_start(trial=trial)
        self._ledger.end(trial.trial_id, failure=why_lost(trial))

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self._ledger.tick()


_LOST = {
    "low on memory": "its process was ended because its node had no memory left",
    "node has died": "its node was lost",
    "worker process has died": "its process was killed or crashed (the system's log says whether for want of memory)",
}


def why_lost(trial: Any) -> str:
    """What Ray says of the end of a trial's process, in a line."""
    file = Path(trial.error_file or "")
    said = file.read_text().strip().rpartition("Failure #")[2] if file.is_file() else ""
    for sign, reason in _LOST.items():
        if sign in said:
            return reason
    return said.splitlines()[-1][:300] if said else "its process was lost"
