"""Everything in order: data, teacher, its signals, students, the quality ladder, the report.

    from recsys.config import load_config
    from recsys.settings import Settings
    from recsys.stages import pipeline
    from recsys.stages.executor import InProcess

    settings = load_config(Settings, "ray_jobs/configs/fixture.yaml", ["data.path=tests/fixtures/ml-tiny"])
    pipeline.run(settings, InProcess())

What is finished and unchanged, by the digest of its configuration and inputs, is kept. Killed at any moment and started
again, it continues. The steps' MLflow runs are children of one run.
"""

import time
from collections.abc import Callable, Mapping
from importlib import import_module

from recsys import storage, tracking
from recsys.config import to_dict
from recsys.settings import Settings
from recsys.stages.executor import Executor

Step = Callable[[Settings, Executor, bool], object]


def run(
    settings: Settings, executor: Executor, steps: Mapping[str, Step] | None = None, *, force: bool = False
) -> None:
    """Run the steps (default: `STEPS`) in order.

    Raises:
        UserError: an input is missing or damaged; what earlier steps made stays.
    """
    steps = STEPS if steps is None else steps
    layout = settings.layout
    print(f"project {settings.name} in {layout.root}", flush=True)
    begun = time.monotonic()
    with tracking.group(settings.tracking, layout.mlflow, settings.name, "pipeline", params=to_dict(settings)):
        for number, (name, step) in enumerate(steps.items(), start=1):
            print(f"\n[{number}/{len(steps)}] {name}", flush=True)
            started = time.monotonic()
            step(settings, executor, force)
            if time.monotonic() - started > 1:
                print(f"{name} took {time.monotonic() - started:.0f} s", flush=True)
    print(f"\nall {len(steps)} steps are done, {time.monotonic() - begun:.0f} s")
    for line in [dataset_facts(settings), *conclusions(settings), *locations(settings)]:
        print(line, flush=True)


def dataset_facts(settings: Settings) -> str:
    """What the results are about, in a line."""
    dataset = storage.read_json(storage.join(settings.layout.dataset, "dataset.json"))
    counts = dataset["counts"]
    return (
        f"dataset {dataset['name']}: {counts['users']:,} users, {counts['items']:,} items, "
        f"{counts['interactions']:,} interactions, {counts['test_rows']:,} test rows by {dataset['protocol']}, "
        f"fingerprint {dataset['fingerprint'][:12]}"
    )


def conclusions(settings: Settings) -> list[str]:
    """What the ladder says of the teacher, where that should be known before anything else."""
    from recsys.evaluation.ladder import LADDER, verdict

    ladder = storage.read_json_if_whole(storage.join(settings.layout.results, f"{LADDER}.json"))
    said = verdict(ladder) if isinstance(ladder, dict) else None
    return [said] if said else []


def locations(settings: Settings) -> list[str]:
    """Where everything lies, as lines; what is not there is left out."""
    layout = settings.layout
    places = {
        "report": storage.join(layout.report, "report.html"),
        "results": layout.results,
        "teacher": layout.teacher,
        **{f"student {name}": layout.student(name) for name in settings.students},
        "dataset": layout.dataset,
        "signals": layout.signals,
    }
    widest = max(map(len, places))
    lines = [f"  {what:{widest}}  {uri}" for what, uri in places.items() if storage.exists(uri)]
    return [*lines, f"  {'MLflow':{widest}}  {tracking.describe(settings.tracking, layout.mlflow)}"]


def _step(stage: str) -> Step:
    """`make` of a stage, imported when its turn comes: where nothing is to be done, little is loaded."""

    def make(settings: Settings, executor: Executor, force: bool) -> None:
        import_module(f"recsys.stages.{stage}").make(settings, executor, force=force)

    return make


def _rules(settings: Settings, executor: Executor, force: bool) -> None:
    from recsys.stages import row_choice, rules, student

    rules.make(settings, executor, force=force, signals=False)
    for name in row_choice.find_needed_students(settings):
        student.make(settings, name, executor, force=force)
    rules.make_signals(settings, executor, force=force)


def _train_teacher(settings: Settings, executor: Executor, force: bool) -> None:
    from recsys.stages import row_choice, student, teacher

    done = row_choice.find_needed_students(settings)
    for name in teacher.find_needed_students(settings):
        student.make(settings, name, executor, force=force and name not in done)
    teacher.make(settings, executor, force=force)


def _distill(settings: Settings, executor: Executor, force: bool) -> None:
    from recsys.stages import row_choice, student, teacher

    # A second time they would be other students than the teacher's, and than those that rows were chosen by.
    done = {*teacher.find_needed_students(settings), *row_choice.find_needed_students(settings)}
    for name in student.order_students(settings):
        student.make(settings, name, executor, force=force and name not in done)


def _report(settings: Settings, _: Executor, force: bool) -> None:
    from recsys.stages import report

    report.make(settings, force=force)


STEPS: dict[str, Step] = {
    "prepare_data": _step("prepare"),
    "rules": _rules,
    "train_teacher": _train_teacher,
    "infer_teacher": _step("signals"),
    "distill": _distill,
    "evaluate": _step("evaluation"),
    "report": _report,
}
