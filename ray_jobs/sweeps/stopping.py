"""Ray Tune's schedulers: which trial ends early, as after an interruption as without one."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler

from ray_jobs.sweeps.trial_work import QUALITY
from recsys.tuning.config import StoppingConfig
from recsys.tuning.records import Record

_EPOCH = "training_iteration"


@dataclass(frozen=True)
class Former:
    """A trial of before, as a scheduler knows it."""

    trial_id: str


class _MedianRule(MedianStoppingRule):
    """Ray Tune's takes the mean over the last report too of a trial that broke, which has no quality."""

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        if QUALITY in result:
            super().on_trial_complete(tune_controller, trial, result)


def build_scheduler(config: StoppingConfig, epochs: int, records: Sequence[Record]) -> TrialScheduler:
    """Ray Tune's scheduler, told the curves of the trials that ended before."""
    grace = min(config.grace, epochs)
    metric: Any = {"metric": QUALITY, "mode": "max", "time_attr": _EPOCH}
    if config.kind == "none":
        return FIFOScheduler()
    made: TrialScheduler
    if config.kind == "asha":
        made = AsyncHyperBandScheduler(
            grace_period=grace,
            max_t=epochs,
            reduction_factor=config.reduction,
            stop_last_trials=False,  # the last epoch ends a trial by itself
            **metric,
        )
    else:
        # A pause would lose what a trial has learned.
        made = _MedianRule(grace_period=grace, min_time_slice=math.inf, **metric)  # type: ignore[arg-type]
    nobody: Any = None
    for record in records:
        if not record.curve:
            continue
        former: Any = Former(record.digest)
        made.on_trial_add(nobody, former)
        best, result = -math.inf, {}
        for number, epoch in enumerate(record.curve, start=1):
            best = max(best, epoch[f"valid_{record.metric}"])
            result = {QUALITY: best, _EPOCH: number}
            made.on_trial_result(nobody, former, result)
        made.on_trial_complete(nobody, former, result)
    return made
