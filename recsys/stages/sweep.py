"""A sweep: what it searches, where it lies, and whether its space goes together with student and data."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from recsys import storage, tracking
from recsys.config import digest, key_values, to_dict
from recsys.data.prepared import PreparedDataset
from recsys.errors import UserError
from recsys.names import check_name
from recsys.settings import Settings, StudentSettings
from recsys.signals.signals import TeacherSignals
from recsys.signals.states import StoredStates
from recsys.stages import student as student_stage
from recsys.tuning.config import RealRange, SweepConfig, candidate, check, combinations, defaults, grid
from recsys.tuning.records import TrialStore

_BUILT = 64  # students, before a value is said to go together with nothing


class Sweep:
    """A sweep over one student of a configuration.

    Raises:
        UserError: the student, the dataset or its signals are missing, or the space does not fit the student.
    """

    def __init__(self, settings: Settings, name: str, config: SweepConfig) -> None:
        self.settings, self.config = settings, config
        self.name = f"{name}-{config.student}"
        self.student = student_stage.find(settings, config.student)
        try:
            check_name(self.name)
        except ValueError as error:
            raise UserError(f"space {name!r}: {error}; rename the file") from None
        taught = [key for key in config.parameters if key.startswith("distillation.")]
        if taught and self.student.distillation is None:
            raise UserError(
                f"parameters.{taught[0]}: student {config.student} has no distillation; give it one, or name another "
                "student (--student)"
            )
        if named := [key for key in config.parameters if key in ("distillation.signals", "alignment.signals")]:
            raise UserError(f"parameters.{named[0]}: all trials learn from the same signals; make a sweep for each set")
        check(self.student, config.parameters)
        training = replace(self.student.training, epochs=config.epochs or self.student.training.epochs)
        self.trial_student = replace(self.student, training=training)
        if config.search == "population" and config.population.interval >= training.epochs:
            raise UserError(f"population.interval must be less than the {training.epochs} epochs of a trial")
        self.trials = len(grid(config.parameters)) if config.search == "grid" else config.trials
        self.uri = settings.layout.sweep(self.name)
        self._run = storage.join(self.uri, "run.json")
        self.store = TrialStore(storage.join(self.uri, "trials"))
        work = student_stage.key(replace(settings, students={config.student: self.trial_student}), config.student)
        self.asked = key_values(config)
        self.key = digest([work, self.asked])
        self._work = work

    def digest(self, parameters: Mapping[str, Any]) -> str:
        """Of a trial: what makes it, other sweeps' trials apart."""
        return digest([self._work, {**parameters}])[:32]

    def candidate(self, parameters: Mapping[str, Any]) -> StudentSettings:
        return candidate(self.trial_student, parameters)

    def propose_own(self) -> list[dict[str, Any]]:
        """The student as it is configured, where the sweep is to try it and its values lie in the space."""
        own = defaults(self.student, self.config.parameters) if self.config.defaults else None
        off_the_grid = self.config.search == "grid" and own not in grid(self.config.parameters)
        return [] if own is None or off_the_grid else [own]

    def find_run(self) -> tracking.Run | None:
        """Its MLflow run, once it has begun."""
        said = storage.read_json_if_whole(self._run)
        if not isinstance(said, dict):
            return None
        where = tracking.describe(self.settings.tracking, self.settings.layout.mlflow)
        return tracking.Run(where, said["id"]) if said.get("id") and where != "none" else tracking.Run()

    def record(self, run: tracking.Run) -> None:
        storage.write_json(self._run, {"id": run.id})  # the address may hold a password

    def is_through(self) -> bool:
        """Whether all that was asked for has been tried, or all that the space holds."""
        plan = storage.read_json_if_whole(storage.join(self.uri, "sweep.json"))
        of_this = isinstance(plan, dict) and plan.get("key") == self.key
        return len(self.store.list_ended()) >= self.trials or (of_this and plan.get("exhausted", 0) >= self.trials)

    def prepare(self, *, resume: bool, force: bool) -> None:
        """Make the sweep's folder, or find it as it must be.

        Raises:
            UserError: there is one that must not be touched without --resume or --force.
        """
        if force:
            storage.delete(self.uri)
        plan = storage.join(self.uri, "sweep.json")
        known = storage.read_json_if_whole(plan)
        ended = len(self.store.list_ended())
        begun = ended + len(self.store.list_interrupted())
        if isinstance(known, dict) and known.get("key") != self.key and begun:
            raise UserError(
                f"sweep {self.name} in {self.uri} was made with another space, student or data ({ended} trials); "
                "--force throws them away and starts over"
            )
        if begun and not self.is_through() and not resume:
            raise UserError(
                f"sweep {self.name} was begun ({ended} of {self.trials} trials ended); "
                "continue with --resume, or throw them away with --force"
            )
        if not isinstance(known, dict) or known.get("key") != self.key:
            storage.write_json(plan, {"key": self.key, "sweep": to_dict(self.config), "student": to_dict(self.student)})

    def load(self) -> tuple[PreparedDataset, TeacherSignals | None, StoredStates | None]:
        """The data of all trials.

        Raises:
            UserError: it is damaged, or a student of the space cannot be built from it.
        """
        layout = self.settings.layout
        dataset = PreparedDataset.load(layout.dataset)
        student = self.student
        rankings = student_stage.rankings_uri(student, layout)
        signals = TeacherSignals.load(rankings, dataset) if student.distillation else None
        states = StoredStates.load(student_stage.states_uri(student, layout), dataset) if student.stored else None
        self._check_buildable(dataset, signals, states)
        return dataset, signals, states

    def _check_buildable(
        self, dataset: PreparedDataset, signals: TeacherSignals | None, states: StoredStates | None
    ) -> None:
        """Every choice and number of a whole range must go together with some of the others'; real numbers always fit.

        Of a long range the ends alone.
        """
        values: dict[str, list[Any]] = {}
        for key, parameter in self.config.parameters.items():
            real = isinstance(parameter, RealRange)
            values[key] = parameter.samples()[:1] if real else parameter.samples()
        proven: set[tuple[str, str]] = set()
        for key, value in [(key, value) for key, tried in values.items() for value in tried]:
            problem = None
            for parameters in itertools.islice(_near({**values, key: [value]}), _BUILT):
                if (key, repr(value)) in proven:
                    break
                try:
                    student_stage.assemble(self.candidate(parameters), dataset, signals, self.settings.layout, states)
                    proven |= {(k, repr(v)) for k, v in parameters.items()}
                except UserError as error:
                    problem = error
            if (key, repr(value)) not in proven:
                raise UserError(f"no student of the space with {key}={value} can be built: {problem}")


def _near(values: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    """The first values, what differs from them in one key, then every combination."""
    first = {key: tried[0] for key, tried in values.items()}
    yield first
    for place in range(1, max(map(len, values.values()))):
        yield from ({**first, key: tried[place]} for key, tried in values.items() if place < len(tried))
    yield from combinations(values)
