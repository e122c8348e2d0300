"""Everything in order: data, teacher, its signals, students, the quality ladder, the served A/B, the report.

    python -m ray_jobs.pipeline --config ray_jobs/configs/demo.yaml
    python -m ray_jobs.pipeline --config ray_jobs/configs/demo.yaml --from distill       # leave the steps before out
    python -m ray_jobs.pipeline --config ray_jobs/configs/demo.yaml --only evaluate
    ray job submit --working-dir . -- python -m ray_jobs.pipeline --config ray_jobs/configs/demo.yaml \\
        --storage /shared/runs

Every step is the module of that name and may be run alone. What is finished and unchanged, by the digest of its
configuration and inputs, is kept; where all is, no Ray is started. `--force` redoes. Killed at any moment and started
again, it continues. The steps' MLflow runs are children of one run.
"""

import argparse
import time
from collections.abc import Callable

from ray_jobs import cli
from ray_jobs.settings import Settings
from recsys import storage, tracking
from recsys.config import to_dict

STEPS = ("prepare_data", "train_teacher", "infer_teacher", "distill", "evaluate", "measure_ab", "report")


def run(settings: Settings, steps: tuple[str, ...] = STEPS, *, force: bool = False) -> None:
    """Run the steps in order.

    Raises:
        UserError: an input is missing or damaged; what earlier steps made stays.
    """
    layout = settings.layout
    print(f"project {settings.name} in {layout.root}", flush=True)
    begun = time.monotonic()
    with tracking.group(settings.tracking, layout.mlflow, settings.name, "pipeline", params=to_dict(settings)):
        for number, step in enumerate(steps, start=1):
            print(f"\n[{number}/{len(steps)}] {step}", flush=True)
            started = time.monotonic()
            _STEPS[step](settings, force)
            if time.monotonic() - started > 1:
                print(f"{step} took {time.monotonic() - started:.0f} s", flush=True)
    print(f"\nall {len(steps)} steps are done, {time.monotonic() - begun:.0f} s")
    for line in [dataset_facts(settings), *locations(settings)]:
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
    lines = [f"  {what:{_widest(places)}}  {uri}" for what, uri in places.items() if storage.exists(uri)]
    return [*lines, f"  {'MLflow':{_widest(places)}}  {tracking.describe(settings.tracking, layout.mlflow)}"]


def _widest(names: dict[str, str]) -> int:
    return max(len(name) for name in names)


# A step's module is imported when its turn comes: where nothing is to be done, little is loaded.


def _prepare_data(settings: Settings, force: bool) -> None:
    from ray_jobs import prepare_data

    prepare_data.run(settings, force=force)


def _train_teacher(settings: Settings, force: bool) -> None:
    from ray_jobs import distill, train_teacher

    for name in train_teacher.needed_students(settings):
        distill.run(settings, name, force=force)
    train_teacher.run(settings, force=force)


def _infer_teacher(settings: Settings, force: bool) -> None:
    from ray_jobs import infer_teacher

    infer_teacher.run(settings, force=force)


def _distill(settings: Settings, force: bool) -> None:
    from ray_jobs import distill, train_teacher

    done = train_teacher.needed_students(settings)  # a second time they would be other students than the teacher's
    for name in distill.ordered(settings):
        distill.run(settings, name, force=force and name not in done)


def _evaluate(settings: Settings, force: bool) -> None:
    from ray_jobs import evaluate

    evaluate.run(settings, force=force)


def _measure_ab(settings: Settings, force: bool) -> None:
    from ray_jobs import measure_ab

    measure_ab.run(settings, force=force)


def _report(settings: Settings, force: bool) -> None:
    from ray_jobs import report

    report.run(settings, force=force)


_STEPS: dict[str, Callable[[Settings, bool], None]] = {
    "prepare_data": _prepare_data,
    "train_teacher": _train_teacher,
    "infer_teacher": _infer_teacher,
    "distill": _distill,
    "evaluate": _evaluate,
    "measure_ab": _measure_ab,
    "report": _report,
}


def main() -> None:
    def arguments(parser: argparse.ArgumentParser) -> None:
        which = parser.add_mutually_exclusive_group()
        which.add_argument("--only", choices=STEPS, help="this step alone")
        which.add_argument("--from", choices=STEPS, dest="first", help="this step and those after it")

    def body(settings: Settings, args: argparse.Namespace) -> None:
        steps = (args.only,) if args.only else STEPS[STEPS.index(args.first) :] if args.first else STEPS
        run(settings, steps, force=args.force)

    cli.run_job(__doc__, body, arguments)


if __name__ == "__main__":
    main()
