"""Search a student's settings: loss weights, depth, learning rate and whatever else its section holds, on Ray Tune.

    python -m ray_jobs.tune --config ray_jobs/configs/demo.yaml --space dllm2rec-weights
    python -m ray_jobs.tune --config ray_jobs/configs/demo.yaml --space dllm2rec-weights --resume
    ray job submit --working-dir . -- python -m ray_jobs.tune --config ray_jobs/configs/demo.yaml \\
        --space my-space.yaml --storage /shared/runs

A space is a YAML file (`recsys.tuning.config.SweepConfig`), or the name of one in ray_jobs/configs/spaces. Everything
of a sweep lies in `<storage>/<name>/sweeps/<space>-<student>`: a record of each trial, `sweep.html` with its pictures,
and `winner.yaml`, which `ray_jobs.distill` takes as it is. A sweep that was killed continues with --resume: trials that
ended are not repeated, interrupted ones start again, and the search has learned from both. Selection is by validation
alone; test rows are ranked once, for the winner, when it has been trained anew with so many seeds as --retrain says.
"""

import argparse
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import yaml

from ray_jobs import cli, distill
from ray_jobs.settings import Settings, StudentSettings
from recsys import environment, storage, tracking
from recsys.config import digest, load_config, to_dict
from recsys.data.prepared import PreparedDataset
from recsys.errors import UserError
from recsys.evaluation import results
from recsys.signals.signals import TeacherSignals
from recsys.signals.states import StoredStates
from recsys.tuning.config import RealRange, SweepConfig, candidate, check, combinations, defaults, grid
from recsys.tuning.records import Record, Started, TrialStore, best

SPACES = Path(__file__).parent / "configs" / "spaces"
_BUILT = 64  # students, before a value is said to go together with nothing
# What may change from one part of a sweep to the next.
_WITHOUT_EFFECT = {
    "trials",
    "minutes",
    "concurrent",
    "workers",
    "cpus",
    "gpus",
    "restarts",
    "keep_checkpoints",
    "retrain",
    "retrain_epochs",
}


def load_space(space: str, **changes: Any) -> tuple[str, SweepConfig]:
    """The name and content of a space, some values replaced.

    Raises:
        UserError: there is none, or it says something that is not accepted.
    """
    packaged = SPACES / f"{space}.yaml"
    path = packaged if packaged.exists() else Path(space)
    if not path.exists():
        known = ", ".join(sorted(file.stem for file in SPACES.glob("*.yaml")))
        raise UserError(f"there is no space {space!r}: neither a file, nor one of {known}")
    config = load_config(SweepConfig, path, [f"{name}={value}" for name, value in changes.items() if value is not None])
    return path.stem, config


class Sweep:
    """A sweep over one student of a configuration.

    Raises:
        UserError: the student, the dataset or its signals are missing, or the space does not fit the student.
    """

    def __init__(self, settings: Settings, name: str, config: SweepConfig) -> None:
        self.settings, self.config = settings, config
        self.name = f"{name}-{config.student}"
        self.student = distill.find(settings, config.student)
        taught = [key for key in config.parameters if key.startswith("distillation.")]
        if taught and self.student.distillation is None:
            raise UserError(
                f"parameters.{taught[0]}: student {config.student} has no distillation; give it one, or name another "
                "student (--student)"
            )
        check(self.student, config.parameters)
        training = replace(self.student.training, epochs=config.epochs or self.student.training.epochs)
        self.trial_student = replace(self.student, training=training)
        if config.search == "population" and config.population.interval >= training.epochs:
            raise UserError(f"population.interval must be less than the {training.epochs} epochs of a trial")
        self.trials = len(grid(config.parameters)) if config.search == "grid" else config.trials
        self.uri = settings.layout.sweep(self.name)
        self.store = TrialStore(storage.join(self.uri, "trials"))
        work = distill.key(replace(settings, students={config.student: self.trial_student}), config.student)
        without = _WITHOUT_EFFECT if config.search == "population" else {*_WITHOUT_EFFECT, "population"}
        self.asked = {key: value for key, value in to_dict(config).items() if key not in without}
        self.key = digest([work, self.asked])
        self._work = work

    def digest(self, parameters: Mapping[str, Any]) -> str:
        """Of a trial: what makes it, other sweeps' trials apart."""
        return digest([self._work, {**parameters}])[:32]

    def candidate(self, parameters: Mapping[str, Any]) -> StudentSettings:
        return candidate(self.trial_student, parameters)

    def own(self) -> list[dict[str, Any]]:
        """The student as it is configured, where the sweep is to try it and its values lie in the space."""
        own = defaults(self.student, self.config.parameters) if self.config.defaults else None
        off_the_grid = self.config.search == "grid" and own not in grid(self.config.parameters)
        return [] if own is None or off_the_grid else [own]

    def through(self) -> bool:
        """Whether all that was asked for has been tried, or all that the space holds."""
        plan = results.read_json_if_whole(storage.join(self.uri, "sweep.json"))
        of_this = isinstance(plan, dict) and plan["key"] == self.key
        return len(self.store.ended()) >= self.trials or (of_this and plan.get("exhausted", 0) >= self.trials)

    def prepare(self, *, resume: bool, force: bool) -> None:
        """Make the sweep's folder, or find it as it must be.

        Raises:
            UserError: there is one that must not be touched without --resume or --force.
        """
        if force:
            storage.delete(self.uri)
        plan = storage.join(self.uri, "sweep.json")
        known = results.read_json_if_whole(plan)
        ended = len(self.store.ended())
        begun = ended + len(self.store.interrupted())
        if isinstance(known, dict) and known["key"] != self.key and begun:
            raise UserError(
                f"sweep {self.name} in {self.uri} was made with another space, student or data ({ended} trials); "
                "--force throws them away and starts anew"
            )
        if begun and not self.through() and not resume:
            raise UserError(
                f"sweep {self.name} was begun ({ended} of {self.trials} trials ended); "
                "continue with --resume, or throw them away with --force"
            )
        if not isinstance(known, dict) or known["key"] != self.key:
            storage.write_json(plan, {"key": self.key, "sweep": to_dict(self.config), "student": to_dict(self.student)})

    def load(self) -> tuple[PreparedDataset, TeacherSignals | None, StoredStates | None]:
        """The data of all trials.

        Raises:
            UserError: it is damaged, or a student of the space cannot be built from it.
        """
        layout = self.settings.layout
        dataset = PreparedDataset.load(layout.dataset)
        signals = TeacherSignals.load(layout.signals, dataset) if self.student.distillation else None
        states = StoredStates.load(layout.signals, dataset) if self.student.stored else None
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
                    distill.assemble(self.candidate(parameters), dataset, signals, self.settings.layout, states)
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


def run(
    settings: Settings, name: str, config: SweepConfig, *, resume: bool = False, force: bool = False
) -> list[Record]:
    """Try what is left to try, draw the report and write the winner's configuration.

    Returns:
        The records of all trials.
    """
    sweep = Sweep(settings, name, config)
    sweep.prepare(resume=resume, force=force)
    records = sweep.store.ended()
    if sweep.through():
        print(f"sweep {sweep.name}: all {len(records)} trials are there, kept", flush=True)
    else:
        try:
            records = _search(sweep, records)
        except KeyboardInterrupt:
            print(f"sweep {sweep.name}: {len(sweep.store.ended())} trials are kept; continue with --resume", flush=True)
            raise
    _conclude(sweep, records)
    return records


def _search(sweep: Sweep, records: list[Record]) -> list[Record]:
    config, settings = sweep.config, sweep.settings
    dataset, signals, states = sweep.load()
    # What a trial has to say is in its record; Ray reads this when it is imported.
    os.environ.setdefault("RAY_LOG_TO_DRIVER", "0")
    from ray_jobs import runtime, shared_inputs, trials
    from recsys.tuning.ledger import Ledger
    from recsys.tuning.search import Search

    runtime.connect()
    concurrent = trials.room(config)
    interrupted = sweep.store.interrupted()
    first = [started.parameters for started in interrupted] + sweep.own()
    left = sweep.trials - len(records)
    plan = storage.join(sweep.uri, "sweep.json")
    storage.write_json(plan, {**storage.read_json(plan), "concurrent": concurrent})
    inputs = shared_inputs.share(dataset, signals, states)
    fingerprint = dataset.fingerprint
    del dataset, signals, states  # the trials read the shared copy
    epochs = sweep.trial_student.training.epochs
    print(
        f"sweep {sweep.name}: {left} trials to go, {concurrent} at a time, of at most {epochs} epochs; {sweep.uri}",
        flush=True,
    )
    with tracking.start_run(
        settings.tracking,
        settings.layout.mlflow,
        settings.name,
        f"sweep {sweep.name}",
        id=(results.read_json_if_whole(storage.join(sweep.uri, "run.json")) or {}).get("id", ""),
        params=sweep.asked,
        tags={"student": config.student, "dataset": fingerprint, "sweep": sweep.key},
    ) as recorded:

        def open_run(started: Started) -> tracking.Run:
            return tracking.start_child(
                settings.tracking,
                settings.layout.mlflow,
                settings.name,
                f"trial {started.number}",
                parent=recorded,
                id=started.run,
                params=started.parameters,
                tags={"sweep": sweep.key, "trial": started.digest},
            )

        storage.write_json(storage.join(sweep.uri, "run.json"), asdict(recorded))
        seconds = 60 * config.minutes if config.minutes else None
        search = Search(config, sweep.digest, records=records, first=first)
        ledger = Ledger(
            sweep.store,
            search,
            digest=sweep.digest,
            metric=sweep.student.training.metric,
            epochs=epochs,
            trials=sweep.trials,
            records=records,
            interrupted=interrupted,
            open_run=open_run,
            weights=trials.weights(storage.join(sweep.uri, "tune")),
            seconds=seconds,
        )
        trials.run_trials(
            config,
            sweep.trial_student,
            inputs,
            search,
            ledger,
            layout=sweep.settings.layout,
            folder=storage.join(sweep.uri, "tune"),
            count=left,
            concurrent=concurrent,
            seconds=seconds,
        )
        print(ledger.summary(), flush=True)
        if ledger.late:
            print("the time was up; continue with --resume", flush=True)
        elif search.used_up:
            print("the space holds no further configuration", flush=True)
        if search.used_up and not sweep.store.interrupted():
            storage.write_json(plan, {**storage.read_json(plan), "exhausted": sweep.trials})
        found = best(ledger.records)
        recorded.log_metrics(
            {
                "trials": len(ledger.records),
                "epochs": sum(record.epochs for record in ledger.records),
                "best": {} if found is None else {found.metric: found.quality},
            }
        )
    return sweep.store.records()


def _conclude(sweep: Sweep, records: list[Record]) -> None:
    """Write the winner's configuration, train it anew where that is wanted, and draw the report."""
    from recsys.tuning.report import spent

    found = best(records)
    if not records:
        raise UserError(f"no trial of sweep {sweep.name} ended in time; continue with --resume and more --minutes")
    if found is None:
        reasons = sorted({record.reason for record in records})
        raise UserError(f"no trial of sweep {sweep.name} finished an epoch: {'; '.join(reasons)[:500]}")
    settings = write_winner(sweep, found)
    about = {"epochs": sweep.trial_student.training.epochs}
    print(f"{spent(about, records)}", flush=True)
    print(f"winner: trial {found.number}, {found.metric} {found.quality:.4f} on validation", flush=True)
    tested = None
    if sweep.config.retrain and sweep.through():
        tested = _retrain(sweep, settings, found)
    elif sweep.config.retrain:  # the next part of the sweep may find another winner, and test rows are ranked for one
        left = sweep.trials - len(sweep.store.ended())
        print(f"not tested: {left} of {sweep.trials} trials are left; continue with --resume", flush=True)
    uri = storage.join(sweep.uri, "report")
    with storage.new_artifact(uri) as directory:
        _draw(sweep, records, directory, tested)
        if recorded := results.read_json_if_whole(storage.join(sweep.uri, "run.json")):
            tracking.Run(**recorded).log_artifact(directory, "report")
    print(f"report: {storage.join(uri, 'sweep.html')}", flush=True)
    print(f"configuration: {storage.join(sweep.uri, 'winner.yaml')}", flush=True)


def _draw(sweep: Sweep, records: list[Record], directory: Path, tested: dict[str, Any] | None) -> None:
    from recsys.tuning.report import write_report
    from recsys.tuning.search import importances

    described = storage.read_json(storage.join(sweep.settings.layout.dataset, "dataset.json"))
    plan = storage.read_json(storage.join(sweep.uri, "sweep.json"))
    about = {
        "name": sweep.name,
        "epochs": sweep.trial_student.training.epochs,
        "defaults": defaults(sweep.student, sweep.config.parameters),
        "importances": importances(sweep.config, records),
        "dataset": {name: described[name] for name in ("name", "fingerprint")},
        "concurrent": plan.get("concurrent", 1),
        "versions": environment.versions(),
        "hardware": environment.hardware(),
        "test": tested,
    }
    write_report(directory, about, sweep.config, records)


def _retrain(sweep: Sweep, settings: Settings, winner: Record) -> dict[str, Any]:
    """Train the winner with every seed as `distill` does, and rank the test rows once."""
    from ray_jobs import evaluate, runtime

    names = _tuned_names(sweep)
    for name in names:
        distill.run(settings, name)
    before = results.read_json_if_whole(storage.join(sweep.uri, "tested.json"))
    winners = before["winners"] if isinstance(before, dict) else []
    if winner.digest not in winners:  # written first: whatever is killed after may have seen test
        winners = [*winners, winner.digest]
        storage.write_json(storage.join(sweep.uri, "tested.json"), {"winners": winners})
    missing = [
        s for s in evaluate.subjects(settings, names) if not results.is_current(settings.layout.results, s.name, s.key)
    ]
    if missing:
        runtime.connect()
        evaluate.evaluate_all(missing, settings.layout, settings.evaluation)
    rule = "masked" if settings.evaluation.mask_seen else "unmasked"
    read = [results.read_result(settings.layout.results, name) for name in names]
    metrics = [result.metrics[rule] for result in read if result is not None]
    values = [each["ndcg@10"] for each in metrics]
    tested = {
        "seeds": len(values),
        "ndcg@10": mean(values),
        "hr@10": mean(each["hr@10"] for each in metrics),
        "spread": stdev(values) if len(values) > 1 else 0.0,
        "winners": len(winners),
    }
    if recorded := results.read_json_if_whole(storage.join(sweep.uri, "run.json")):
        run, uri = tracking.Run(**recorded), settings.layout.student(names[0])
        model, content = f"{settings.name}.{names[0]}", cli.required(uri, "checkpoint", "distill").content_hash
        run.register(storage.local_copy(uri, "checkpoint"), model, content)
        run.log_metrics({"test": tested})
    print(
        f"test, {len(values)} seed(s): NDCG@10 {tested['ndcg@10']:.4f} (sd {tested['spread']:.4f}), "
        f"HR@10 {tested['hr@10']:.4f}",
        flush=True,
    )
    return tested


def _tuned_names(sweep: Sweep) -> list[str]:
    base = f"{sweep.config.student}-tuned"
    return [base, *(f"{base}-seed{number}" for number in range(1, sweep.config.retrain))]


def tuned(sweep: Sweep, winner: Record) -> Settings:
    """The settings with the winner as further students, one a seed."""
    student = candidate(sweep.student, winner.chosen)
    epochs = sweep.config.retrain_epochs or student.training.epochs
    students = dict(sweep.settings.students)
    for number, name in enumerate(_tuned_names(sweep)):
        training = replace(student.training, epochs=epochs, seed=student.training.seed + number)
        students[name] = replace(student, training=training)
    return replace(sweep.settings, storage=sweep.settings.layout.storage_root, students=students)


def _schedule(winner: Record) -> str:
    """What of a population's winner a configuration cannot say, as comments."""
    if not winner.changes:
        return ""
    steps = "".join(
        f"#   after epoch {change['epoch']} from trial {change['from']}: {change['parameters']}\n"
        for change in winner.changes
    )
    return f"# Those are the values of its best epoch. It began with {winner.parameters}\n{steps}"


def write_winner(sweep: Sweep, winner: Record) -> Settings:
    """Write `winner.yaml`: the whole configuration with the winner as a student beside the others."""
    settings = tuned(sweep, winner)
    changes = "\n".join(f"#   {key}: {value}" for key, value in winner.chosen.items())
    head = (
        f"# Trial {winner.number} of sweep {sweep.name}, the best of {len(sweep.store.records())} on validation: "
        f"{winner.metric} {winner.quality:.4f}\n{changes}\n{_schedule(winner)}"
        f"# python -m ray_jobs.distill --config winner.yaml --student {sweep.config.student}-tuned\n"
    )
    text = head + yaml.safe_dump(to_dict(settings), sort_keys=False)
    storage.write_bytes(storage.join(sweep.uri, "winner.yaml"), text.encode())
    return settings


def main() -> None:
    def body(settings: Settings, args: argparse.Namespace) -> None:
        names = ("student", "trials", "minutes", "concurrent", "retrain", "retrain_epochs")
        changes = {name: getattr(args, name) for name in names}
        name, config = load_space(args.space, **changes)
        run(settings, name, config, resume=args.resume, force=args.force)

    def arguments(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--space", metavar="NAME|FILE", default="dllm2rec-weights", help="what is searched")
        parser.add_argument("--resume", action="store_true", help="continue a sweep that was interrupted")
        parser.add_argument("--student", metavar="NAME", help="instead of the space's")
        parser.add_argument("--trials", metavar="N", help="how many configurations are tried")
        parser.add_argument("--minutes", metavar="M", help="no trial starts after them, running ones are stopped")
        parser.add_argument("--concurrent", metavar="N", help="trials at a time")
        parser.add_argument("--retrain", metavar="SEEDS", help="train the winner anew with so many seeds, and test it")
        parser.add_argument("--retrain-epochs", metavar="E", help="for at most so many epochs (default: the student's)")

    cli.run_job(__doc__, body, arguments)


if __name__ == "__main__":
    main()
