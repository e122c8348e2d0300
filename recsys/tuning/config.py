"""What a sweep is asked to do: a typed search space over the settings of one student, and how it is searched.

A space is a YAML file (`ray_jobs/configs/spaces/`)::

    student: sasrec-distilled
    trials: 24
    parameters:
      distillation.ranking.weight: {kind: loguniform, low: 0.01, high: 2}
      model.blocks: {kind: int, low: 1, high: 3}

The keys of `parameters` are those of the student's section, with dots. `check` refuses what the settings' dataclasses
would refuse, before anything is started.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

from recsys.config import Field, NotInKey, configuration, from_dict, set_value, to_dict
from recsys.errors import UserError

T = TypeVar("T")
Value = bool | int | float | str | None
Objective = Literal["quality", "parameters", "latency"]

_ALL = 32  # values of a whole range that are all checked; of a longer one its ends
_INSIDE = 0.381966  # a place in a range that is no whole number where its ends are


def _check_range(low: float, high: float) -> None:
    if not low < high:
        raise ValueError(f"the range is empty: low {low:g} must be less than high {high:g}")
    if not math.isfinite(low) or not math.isfinite(high):
        raise ValueError(f"low {low:g} and high {high:g} must be finite")


@configuration
class RealRange:
    """A real number: every part of the range alike, or (`loguniform`) every order of magnitude.

    Attributes:
        points: into how many values a grid search cuts the range: equally spaced, or of equal ratio.
    """

    kind: Literal["uniform", "loguniform"] = "uniform"
    low: float
    high: float
    points: int | None = Field(default=None, ge=2)

    def __post_init__(self) -> None:
        _check_range(self.low, self.high)
        if self.kind == "loguniform" and self.low <= 0:
            raise ValueError(f"low {self.low:g} of a loguniform range must be more than 0")

    def grid(self) -> list[Value]:
        """The values of a grid search; empty where `points` says nothing."""
        if self.points is None:
            return []
        steps = self.points - 1
        if self.kind == "loguniform":
            inner = [self.low * (self.high / self.low) ** (n / steps) for n in range(1, steps)]
        else:
            inner = [self.low + (self.high - self.low) * n / steps for n in range(1, steps)]
        return [self.low, *inner, self.high]

    def samples(self) -> list[Value]:
        """Values that stand for all where a setting is checked."""
        return [self.low, self.low + _INSIDE * (self.high - self.low), self.high]

    def holds(self, value: Any) -> bool:
        return _is_number(value) and self.low <= value <= self.high


@configuration
class IntRange:
    """A whole number from low to high, both included, in steps."""

    kind: Literal["int"] = "int"
    low: int
    high: int
    step: int = Field(default=1, ge=1)

    def __post_init__(self) -> None:
        _check_range(self.low, self.high)
        if (self.high - self.low) % self.step:
            raise ValueError(f"steps of {self.step} from {self.low} do not reach high {self.high}; choose another high")

    def grid(self) -> list[Value]:
        return list(range(self.low, self.high + 1, self.step))

    def samples(self) -> list[Value]:
        values = self.grid()
        return values if len(values) <= _ALL else [self.low, self.high]

    def holds(self, value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and value in self.grid()


@configuration
class Choice:
    """One of some values, in no order."""

    kind: Literal["choice"] = "choice"
    values: tuple[Value, ...] = Field(min_length=1)

    def __post_init__(self) -> None:
        if len(set(map(repr, self.values))) < len(self.values):
            raise ValueError("a value is there twice")

    def grid(self) -> list[Value]:
        return list(self.values)

    def samples(self) -> list[Value]:
        return list(self.values)

    def holds(self, value: Any) -> bool:
        return value in self.values


Parameter = Annotated[RealRange | IntRange | Choice, Field(discriminator="kind")]


@configuration
class StoppingConfig:
    """When a trial ends before its last epoch.

    Attributes:
        kind: `asha` keeps, at each of some epochs, the best 1/reduction of the trials seen there so far; `median` ends
            a trial whose best epoch is worse than the median of the others' means; `none` lets every trial run.
        grace: epochs that every trial gets.
        reduction: of `asha`: its epochs of decision are grace, grace · reduction, grace · reduction² …
    """

    kind: Literal["asha", "median", "none"] = "asha"
    grace: int = Field(default=3, ge=1)
    reduction: int = Field(default=3, ge=2)


@configuration
class PopulationConfig:
    """Population-based training (Jaderberg et al., arXiv 1711.09846), generation by generation.

    Attributes:
        interval: epochs of a generation.
        share: of the population that is replaced after each, by copies of as many of the best; at least one.
        redraw: chance that a copy's real number is drawn anew instead of multiplied by 0.8 or 1.2.
    """

    interval: int = Field(default=2, ge=1)
    share: float = Field(default=0.25, gt=0, le=0.5)
    redraw: float = Field(default=0.25, ge=0, le=1)


@configuration
class SweepConfig:
    """A sweep.

    Attributes:
        student: whose settings are searched, a name of `students`.
        parameters: key inside the student's section → what is tried there.
        search: `tpe` is Optuna's tree-structured Parzen estimator, `random` draws, `grid` tries every combination;
            `population` draws as many as there are trials, and changes real numbers on the way.
        trials: how many configurations are tried; a grid has as many as it has.
        population: of that search alone.
        objectives: `quality` is the validation metric of `training.metric`; `parameters` (numbers a served model keeps)
            and `latency` (milliseconds of a history, beside the other trials) are made small beside it.
        stopping: by validation quality alone.
        epochs: of each trial at most; default the student's own.
        defaults: try the student as it is configured first, where its values lie in the space (or are a point of the
            grid).
        seed: of the search; trials train with the student's own.
        minutes: no trial starts after them, and running ones are cut; where the sweep goes on they start again.
        concurrent: trials at a time; default as many as the cluster has room for.
        workers: processes of a trial; several train it as a Ray Train run of its own.
        cpus, gpus: what a trial asks for, or each of its workers.
        restarts: how often a trial is started again when its process or node was lost; a trial of several workers goes
            on from its last epoch.
        keep_checkpoints: keep the best epoch's weights of every trial, beside its record and in its MLflow run.
        retrain: with how many seeds the best configuration is trained anew and then, once, tested; 0 leaves it out.
        retrain_epochs: of each of those at most; default the student's own.
    """

    student: str
    parameters: dict[str, Parameter] = Field(min_length=1)
    search: Literal["tpe", "random", "grid", "population"] = "tpe"
    trials: NotInKey[int] = Field(default=24, ge=1)
    objectives: tuple[Objective, ...] = ("quality",)
    stopping: StoppingConfig = StoppingConfig()
    population: PopulationConfig = PopulationConfig()
    epochs: int | None = Field(default=None, ge=1)
    defaults: bool = True
    seed: int = 0
    minutes: NotInKey[float | None] = Field(default=None, gt=0)
    concurrent: NotInKey[int | None] = Field(default=None, ge=1)
    workers: NotInKey[int] = Field(default=1, ge=1)
    cpus: NotInKey[float] = Field(default=1, gt=0)
    gpus: NotInKey[float] = Field(default=0, ge=0)
    restarts: NotInKey[int] = Field(default=1, ge=0)
    keep_checkpoints: NotInKey[bool] = True
    retrain: NotInKey[int] = Field(default=0, ge=0)
    retrain_epochs: NotInKey[int | None] = Field(default=None, ge=1)

    def __post_init__(self) -> None:
        if "quality" not in self.objectives or len(set(self.objectives)) < len(self.objectives):
            raise ValueError("objectives: quality must be one of them, each at most once")
        if self.search == "grid":
            uncut = [name for name, parameter in self.parameters.items() if not parameter.grid()]
            if uncut:
                raise ValueError(f"parameters.{uncut[0]}: a grid needs points, into how many values the range is cut")
        if self.search != "population":
            if self.population != PopulationConfig():
                raise ValueError(f"population says how search population works, but search is {self.search}")
        elif self.stopping.kind != "none":
            raise ValueError("a population replaces instead of stopping; set stopping.kind=none")
        elif self.workers > 1:
            raise ValueError("a population's trials have one worker each; set workers=1")
        elif self.trials < 2 or not reals(self.parameters):
            raise ValueError("a population needs at least two trials and a range of real numbers")


def reals(parameters: Mapping[str, Parameter]) -> dict[str, RealRange]:
    """Those that can change while a student is trained; others decide which weights it has."""
    return {key: parameter for key, parameter in parameters.items() if isinstance(parameter, RealRange)}


def candidate(base: T, parameters: Mapping[str, Any]) -> T:
    """The settings `base` with other values at some keys.

    Raises:
        UserError: a key or value is not accepted.
    """
    values = to_dict(base)
    for key, value in parameters.items():
        set_value(values, key, value)
    return from_dict(type(base), values)


def grid(parameters: Mapping[str, Parameter]) -> list[dict[str, Value]]:
    """Every combination, the last parameter changing fastest."""
    return list(combinations({key: parameter.grid() for key, parameter in parameters.items()}))


def combinations(values: Mapping[str, Sequence[Value]]) -> Iterator[dict[str, Value]]:
    """One value of each key, in every way."""
    return (dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values()))


def check(base: Any, parameters: Mapping[str, Parameter]) -> None:
    """Refuse parameters that the dataclasses of `base` do not have or whose values they do not take.

    Ends of ranges, every choice and every number of a short whole range are tried alone; what cannot go together (a
    width that heads do not divide) is found by trying all pairs of them.

    Raises:
        UserError: one line that names the parameter.
    """
    for key, parameter in parameters.items():
        if key == "scaling" or key.startswith("scaling."):
            raise UserError(f"parameters.{key}: where a student is trained changes nothing of what it learns")
        for value in parameter.samples():
            _try(base, {key: value})
    for (key, one), (other_key, other) in itertools.combinations(parameters.items(), 2):
        for value, other_value in itertools.product(one.samples(), other.samples()):
            _try(base, {key: value, other_key: other_value})


def defaults(base: Any, parameters: Mapping[str, Parameter]) -> dict[str, Value] | None:
    """The values that `base` has at the keys, or None where one lies outside its range."""
    found: dict[str, Value] = {}
    values = to_dict(base)
    for key, parameter in parameters.items():
        node: Any = values
        for part in key.split("."):
            node = node.get(part) if isinstance(node, dict) else None
        if not parameter.holds(node):
            return None
        found[key] = node
    return found


def _try(base: Any, parameters: dict[str, Value]) -> None:
    try:
        candidate(base, parameters)
    except UserError as error:
        which = ", ".join(f"{key}={value}" for key, value in parameters.items())
        raise UserError(f"the space does not fit the student ({which}): {error}") from None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
