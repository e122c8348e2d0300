"""Which configuration comes next: Optuna behind two calls, `ask` and `tell`, that know what was tried before.

The search is rebuilt from the records of the trials, so that an interrupted sweep goes on as if it had not been, on
whatever machine and with whatever number of trials at a time; no state of a library is kept.
"""

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from recsys.tuning.config import Choice, IntRange, Parameter, SweepConfig, Value, grid
from recsys.tuning.records import Record

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.distributions import BaseDistribution

_DRAWS = 200  # how often a configuration that was tried already is drawn before the space counts as used up


class Search:
    """Proposes configurations; equal ones at most once.

    Attributes:
        used_up: `ask` found no further one.

    Args:
        digest: of a configuration; two with equal digests are the same trial.
        records: of trials that ended before; the search learns from them.
        first: configurations to try before others, in this order: interrupted ones, the student as it is configured.
    """

    def __init__(
        self,
        config: SweepConfig,
        digest: Callable[[dict[str, Value]], str],
        *,
        records: Sequence[Record] = (),
        first: Sequence[dict[str, Value]] = (),
    ) -> None:
        self.used_up = False
        self._config, self._digest = config, digest
        self._distributions = distributions(config)
        self._study = study(config, records)
        self._known = {record.digest: record for record in records}
        self._proposed = set(self._known)
        self._asked: dict[str, Trial] = {}
        for parameters in [*first, *(grid(config.parameters) if config.search == "grid" else [])]:
            self._study.enqueue_trial(parameters, skip_if_exists=False)
        self._left = len(first) + len(grid(config.parameters)) if config.search == "grid" else None

    def ask(self) -> dict[str, Value] | None:
        """A configuration that was not proposed before, None where there seems to be none."""
        for _ in range(_DRAWS):
            if self._left is not None:
                if not self._left:
                    break
                self._left -= 1
            trial = self._study.ask(self._distributions)
            digest = self._digest(trial.params)
            if digest not in self._proposed:
                self._proposed.add(digest)
                self._asked[digest] = trial
                return dict(trial.params)
            self._tell(trial, self._known.get(digest))
        self.used_up = True
        return None

    def tell(self, record: Record) -> None:
        """What came of a configuration that `ask` gave."""
        self._known[record.digest] = record
        self._tell(self._asked.pop(record.digest), record)

    def _tell(self, trial: "Trial", record: Record | None) -> None:
        from optuna.trial import TrialState

        values = None if record is None else objectives(self._config, record)
        if values is None:
            self._study.tell(trial, state=TrialState.FAIL)
        else:
            self._study.tell(trial, values)


def study(config: SweepConfig, records: Sequence[Record]) -> "Study":
    """An Optuna study in memory that knows `records`."""
    import optuna
    from optuna.trial import TrialState, create_trial

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.getLogger("optuna").setLevel(logging.ERROR)
    # Draws after an interruption must not repeat those before it.
    seed = config.seed + len(records)
    sampler = (
        optuna.samplers.TPESampler(seed=seed, multivariate=True, n_startup_trials=min(10, max(3, config.trials // 3)))
        if config.search == "tpe"
        else optuna.samplers.RandomSampler(seed=seed)
    )
    directions: Any = ["maximize" if name == "quality" else "minimize" for name in config.objectives]
    made = optuna.create_study(directions=directions, sampler=sampler)
    space = distributions(config)
    for record in records:
        values = objectives(config, record)
        state = TrialState.FAIL if values is None else TrialState.COMPLETE
        made.add_trial(create_trial(state=state, values=values, params=record.parameters, distributions=space))
    return made


def objectives(config: SweepConfig, record: Record) -> list[float] | None:
    """The record's values of the sweep's objectives, None where one is missing."""
    values = [record.objective(name) for name in config.objectives]
    return None if record.status == "failed" or None in values else [float(v) for v in values if v is not None]


def distributions(config: SweepConfig) -> dict[str, "BaseDistribution"]:
    """The space in Optuna's terms."""
    return {name: _distribution(parameter) for name, parameter in config.parameters.items()}


def importances(config: SweepConfig, records: Sequence[Record]) -> dict[str, float]:
    """How much of the variance of quality each parameter explains (fANOVA, Hutter et al., ICML 2014); they sum to 1.

    Empty where fewer than four trials, or only equal ones, tell anything, and for a population, whose values change.
    """
    import optuna

    if config.search == "population":
        return {}
    only_quality = SweepConfig(student=config.student, parameters=config.parameters)
    told = [record for record in records if objectives(only_quality, record) is not None]
    varied = any(len({repr(r.parameters[name]) for r in told}) > 1 for name in config.parameters)
    if len(told) < 4 or len({record.quality for record in told}) < 2 or not varied:
        return {}
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    found = optuna.importance.get_param_importances(study(only_quality, told), evaluator=evaluator)
    return {name: float(value) for name, value in found.items()}


def _distribution(parameter: Parameter) -> "BaseDistribution":
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(parameter, Choice):
        return CategoricalDistribution(parameter.values)
    if isinstance(parameter, IntRange):
        return IntDistribution(parameter.low, parameter.high, step=parameter.step)
    return FloatDistribution(parameter.low, parameter.high, log=parameter.kind == "loguniform")
