"""What comes of a sweep: the winner's configuration, its training with several seeds, its one test, and the report."""

from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import yaml

from recsys import environment, storage
from recsys.config import to_dict
from recsys.errors import UserError
from recsys.evaluation import results
from recsys.evaluation.config import name_rule
from recsys.secrets import without_secrets
from recsys.settings import Settings
from recsys.stages import evaluation
from recsys.stages import student as student_stage
from recsys.stages.artefacts import require
from recsys.stages.executor import Executor
from recsys.stages.sweep import Sweep
from recsys.tuning.config import candidate, defaults
from recsys.tuning.records import Record, best


def conclude(sweep: Sweep, records: list[Record], executor: Executor) -> None:
    """Write the winner's configuration, train it anew where that is wanted, and draw the report."""
    from recsys.tuning.report import describe_spending

    found = best(records)
    if not records:
        raise UserError(f"no trial of sweep {sweep.name} ended in time; continue with --resume and more --minutes")
    if found is None:
        reasons = sorted({record.reason for record in records})
        raise UserError(f"no trial of sweep {sweep.name} finished an epoch: {'; '.join(reasons)[:500]}")
    settings = write_winner(sweep, found)
    about = {"epochs": sweep.trial_student.training.epochs}
    print(f"{describe_spending(about, records)}", flush=True)
    print(f"winner: trial {found.number}, {found.metric} {found.quality:.4f} on validation", flush=True)
    tested = None
    if sweep.config.retrain and sweep.is_through():
        tested = _retrain(sweep, settings, found, executor)
    elif sweep.config.retrain:  # the next part of the sweep may find another winner, and test rows are ranked for one
        left = sweep.trials - len(sweep.store.list_ended())
        print(f"not tested: {left} of {sweep.trials} trials are left; continue with --resume", flush=True)
    uri = storage.join(sweep.uri, "report")
    with storage.new_artifact(uri) as directory:
        draw(sweep, records, directory, tested)
        if run := sweep.find_run():
            run.log_artifact(directory, "report")
    print(f"report: {storage.join(uri, 'sweep.html')}", flush=True)
    print(f"configuration: {storage.join(sweep.uri, 'winner.yaml')}", flush=True)


def draw(sweep: Sweep, records: list[Record], directory: Path, tested: dict[str, Any] | None) -> None:
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
        **environment.conditions(),
        "test": tested,
    }
    write_report(directory, about, sweep.config, records)


def _retrain(sweep: Sweep, settings: Settings, winner: Record, executor: Executor) -> dict[str, Any]:
    """Train the winner with every seed as `distill` does, and rank the test rows once."""
    names = _tuned_names(sweep)
    for name in names:
        student_stage.make(settings, name, executor)
    before = storage.read_json_if_whole(storage.join(sweep.uri, "tested.json"))
    winners = before["winners"] if isinstance(before, dict) else []
    if winner.digest not in winners:  # written first: whatever is killed after may have seen test
        winners = [*winners, winner.digest]
        storage.write_json(storage.join(sweep.uri, "tested.json"), {"winners": winners})
    missing = [
        s
        for s in evaluation.list_subjects(settings, names)
        if not results.is_current(settings.layout.results, s.name, s.key)
    ]
    if missing:
        evaluation.evaluate_all(missing, settings.layout, settings.evaluation, executor)
    rule = name_rule(settings.evaluation.mask_seen)
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
    if run := sweep.find_run():
        uri = settings.layout.student(names[0])
        model, content = f"{settings.name}.{names[0]}", require(uri, "checkpoint", "distill").content_hash
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


def add_tuned(sweep: Sweep, winner: Record) -> Settings:
    """The settings with the winner as further students, one per seed."""
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
    settings = add_tuned(sweep, winner)
    changes = "\n".join(f"#   {key}: {value}" for key, value in winner.chosen.items())
    head = (
        f"# Trial {winner.number} of sweep {sweep.name}, the best of {len(sweep.store.records())} on validation: "
        f"{winner.metric} {winner.quality:.4f}\n{changes}\n{_schedule(winner)}"
        f"# python -m ray_jobs.distill --config winner.yaml --student {sweep.config.student}-tuned\n"
    )
    values, left_out = without_secrets(to_dict(settings))
    head += "".join(f"# {name} holds a password and is left out: say it again\n" for name in left_out)
    text = head + yaml.safe_dump(values, sort_keys=False)
    storage.write_bytes(storage.join(sweep.uri, "winner.yaml"), text.encode())
    return settings
