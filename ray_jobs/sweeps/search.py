"""A sweep run: what is left to try is tried, and what comes of it concluded."""

import os
from pathlib import Path
from typing import Any

from ray_jobs.on_ray import OnRay
from recsys import locks, storage, tracking
from recsys.config import load_config
from recsys.errors import UserError
from recsys.settings import Settings
from recsys.stages.sweep import Sweep
from recsys.stages.sweep_winner import conclude
from recsys.tuning.config import SweepConfig
from recsys.tuning.records import Record, Started, best

SPACES = Path(__file__).parents[1] / "configs" / "spaces"


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


def run(
    settings: Settings, name: str, config: SweepConfig, *, resume: bool = False, force: bool = False
) -> list[Record]:
    """Try what is left to try, draw the report and write the winner's configuration.

    Returns:
        The records of all trials.
    """
    sweep = Sweep(settings, name, config)
    with locks.hold(sweep.uri, f"sweep {sweep.name}"):
        return _run(sweep, resume=resume, force=force)


def _run(sweep: Sweep, *, resume: bool, force: bool) -> list[Record]:
    sweep.prepare(resume=resume, force=force)
    records = sweep.store.list_ended()
    if sweep.is_through():
        print(f"sweep {sweep.name}: all {len(records)} trials are there, kept", flush=True)
    else:
        try:
            records = search_trials(sweep, records)
        except KeyboardInterrupt:
            kept = len(sweep.store.list_ended())
            print(f"sweep {sweep.name}: {kept} trials are kept; continue with --resume", flush=True)
            raise
    conclude(sweep, records, OnRay())
    return records


def search_trials(sweep: Sweep, records: list[Record]) -> list[Record]:
    config, settings = sweep.config, sweep.settings
    dataset, signals, states = sweep.load()
    # What a trial has to say is in its record; Ray reads this when it is imported.
    os.environ.setdefault("RAY_LOG_TO_DRIVER", "0")
    from ray_jobs.cluster import runtime
    from ray_jobs.sweeps import shared_inputs, trials
    from ray_jobs.sweeps.room import count_places
    from recsys.tuning.ledger import Ledger
    from recsys.tuning.search import Search

    runtime.connect()
    concurrent, before = count_places(config), sweep.find_run()
    interrupted = sweep.store.list_interrupted()
    first = [started.parameters for started in interrupted] + sweep.propose_own()
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
        id=before.id if before else "",
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

        sweep.record(recorded)
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
        print(ledger.summarise(), flush=True)
        if ledger.late:
            print("the time was up; continue with --resume", flush=True)
        elif search.used_up:
            print("the space holds no further configuration", flush=True)
        if search.used_up and not sweep.store.list_interrupted():
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
