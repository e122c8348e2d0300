"""Population-based training on Ray Tune: after each generation the worst go on from the best, a bit changed."""

import random
from typing import Any

from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import PopulationBasedTraining, TrialScheduler

from recsys.tuning.config import RealRange, SweepConfig, reals
from recsys.tuning.ledger import Ledger

_EPOCH, _NOW = "epoch", "now"
RECORDED_EPOCH = "record/epoch"  # Ray Tune hands results on flat


class Population(PopulationBasedTraining):
    """Ray Tune's scheduler, all at the same epoch when they are compared; tells the ledger who went on from whom.

    Real numbers are multiplied by 0.8 or 1.2 or drawn anew, within their ranges; whatever else a trial has goes with
    the weights that it takes over. What counts is the quality of the weights as they are, not the best there was.
    """

    def __init__(self, config: SweepConfig, metric: str, ledger: Ledger) -> None:
        self._ledger, self._valid = ledger, f"record/valid_{metric}"
        self._ranges = reals(config.parameters)
        random.seed(config.seed)  # Ray Tune draws from it
        super().__init__(
            time_attr=_EPOCH,
            metric=_NOW,
            mode="max",
            perturbation_interval=config.population.interval,
            hyperparam_mutations={"parameters": {key: _domain(range) for key, range in self._ranges.items()}},
            quantile_fraction=config.population.share,
            resample_probability=config.population.redraw,
            custom_explore_fn=self._within,
            log_config=False,
            require_attrs=False,
            synch=True,
        )

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        if RECORDED_EPOCH not in result or result["finished"] or result[RECORDED_EPOCH] % self._perturbation_interval:
            return TrialScheduler.CONTINUE
        known = {**result, _NOW: result[self._valid]}
        self._save_trial_state(self._trial_state[trial], result[RECORDED_EPOCH], known, trial)
        self._turn(tune_controller)
        return TrialScheduler.NOOP if trial.status == Trial.PAUSED else TrialScheduler.PAUSE

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        super().on_trial_complete(tune_controller, trial, result)
        self._turn(tune_controller, without=trial)

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        super().on_trial_error(tune_controller, trial)
        self._turn(tune_controller, without=trial)

    def _turn(self, tune_controller: Any, without: Trial | None = None) -> None:
        """End the generation if all are through it. Ray Tune's own would wait forever for one that broke on the way."""
        if without is not None:
            self._trial_state[without].last_score = None
        live = [trial for trial in tune_controller.get_live_trials() if trial is not without]
        epoch = self._next_perturbation_sync
        if not live or any(self._trial_state[trial].last_train_time < epoch for trial in live):
            return
        worst, best = self._quantiles()
        for trial in [*best, *(t for t in live if t not in best and t not in worst), *worst]:  # the best are kept first
            self._trial_state[trial].last_perturbation_time = int(epoch)
            self._checkpoint_or_exploit(trial, tune_controller, best, worst)
        following: Any = epoch + self._perturbation_interval
        self._next_perturbation_sync = following

    def _exploit(self, tune_controller: Any, trial: Trial, trial_to_clone: Trial) -> None:
        super()._exploit(tune_controller, trial, trial_to_clone)
        epoch = int(self._trial_state[trial].last_train_time)
        self._ledger.note_replacement(trial.trial_id, trial_to_clone.trial_id, epoch, trial.config["parameters"])

    def _within(self, config: dict[str, Any]) -> dict[str, Any]:
        for key, range in self._ranges.items():
            config["parameters"][key] = min(max(config["parameters"][key], range.low), range.high)
        return config


def _domain(range: RealRange) -> Any:
    return (tune.uniform if range.kind == "uniform" else tune.loguniform)(range.low, range.high)
