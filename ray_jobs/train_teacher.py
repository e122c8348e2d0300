"""Train the teacher on Ray Train: item embeddings once, then the recommender on top of them (and, where
`teacher.model.item_training` says so, the item language model as well).

    python -m ray_jobs.train_teacher --config ray_jobs/configs/demo.yaml
    ray job submit --working-dir . -- python -m ray_jobs.train_teacher --config ray_jobs/configs/demo.yaml \\
        teacher.scaling.workers=8 teacher.scaling.gpus=1 teacher.training.deepspeed.zero_stage=2

First one Ray task turns the titles into vectors with the item language model; they are kept under the storage root for
every later run with the same titles and model. Then `teacher.scaling.workers` processes train, through DeepSpeed ZeRO
where `teacher.training.deepspeed` is set: NCCL on GPUs, gloo on CPUs. A crashed worker group restarts from its last
epoch, and so does a killed job that is started again with the same configuration. Another task makes the checkpoint of
the best epoch's weights.
"""

import argparse
import dataclasses
import time
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import ray

from ray_jobs import cli, runtime
from ray_jobs.settings import Layout, Settings, TeacherSettings
from recsys import tracking
from recsys.checkpoint import save_checkpoint
from recsys.config import digest, to_dict, without_unasked
from recsys.data.prepared import PreparedDataset
from recsys.errors import UserError
from recsys.teacher import Teacher, teacher_class
from recsys.teachers.config import with_absolute_folders
from recsys.training.config import TrainingConfig
from recsys.training.loop import Progress
from recsys.training.objective import Objective

_OPTIONS = {"rows", "base_layers", "user_lora"}  # no part of the key where they are not asked for
T = TypeVar("T")


def key(settings: Settings) -> str:
    """Digest of what makes this teacher: its configuration, the dataset, its titles and the students it is built from.

    Raises:
        UserError: the dataset or a student is not there yet.
    """
    dataset = cli.required(settings.layout.dataset, "prepared dataset", "prepare_data")
    inputs = [dataset.attributes["fingerprint"], dataset.files["items.parquet"]["sha256"]]
    for name in needed_students(settings):
        inputs.append(
            cli.required(settings.layout.student(name), f"student {name}", f"distill --student {name}").content_hash
        )
    said = to_dict(settings.teacher) | {"model": without_unasked(settings.teacher.model, _OPTIONS)}
    # Where workers run does not change what is learned; how many there are changes rounding only.
    return digest({"teacher": {**said, "scaling": None}, "inputs": inputs})


def needed_students(settings: Settings) -> list[str]:
    """Names of the students that are trained before the teacher, because it is built from them.

    Raises:
        UserError: there is no such student, or it would in turn learn from the teacher.
    """
    names = []
    for field in ("ids_from", "scores_from"):
        name = getattr(settings.teacher.model, field, None)
        if name is None:
            continue
        if name not in settings.students:
            known = ", ".join(settings.students) or "none"
            raise UserError(f"teacher.model.{field} names student {name!r}, but the configuration has: {known}")
        if settings.students[name].needs_teacher:
            raise UserError(
                f"teacher.model.{field}: student {name!r} learns from the teacher itself; name one that is trained "
                "alone"
            )
        names.append(name)
    return names


def run(settings: Settings, *, force: bool = False) -> dict[str, Any]:
    """Train the teacher, and one for each fold; their checkpoints lie at `settings.layout.teacher` and beside it.

    Returns:
        What the teacher's checkpoint says of its training, or {} where it was current.
    """
    work = key(settings)
    trained = _train(settings, settings.layout.teacher, "teacher", work, force=force)
    for fold in range(settings.teacher.folds):
        uri, name = settings.layout.teacher_of_fold(fold), f"teacher without fold {fold + 1}/{settings.teacher.folds}"
        _train(settings, uri, name, digest([work, fold]), fold=fold, force=force)
    return trained


def _train(
    settings: Settings, uri: str, name: str, work: str, *, fold: int | None = None, force: bool
) -> dict[str, Any]:
    layout, configured = settings.layout, settings.teacher
    # What is known and recorded of it stays as it was written: a submitted job's folder is another one each time.
    teacher = dataclasses.replace(configured, model=with_absolute_folders(configured.model))
    if not force and cli.is_current(uri, work):
        print(f"{name}: unchanged, kept", flush=True)
        return {}
    from ray_jobs import train_runs

    runtime.connect()
    train_runs.check_room(teacher.scaling)  # which has room for the task as well
    tags = {"dataset": cli.fingerprint(layout)}
    step = "train_teacher" if fold is None else f"train_teacher without fold {fold}"
    folder = "teacher" if fold is None else f"teacher-fold-{fold}"
    with tracking.start_run(
        settings.tracking, layout.mlflow, settings.name, step, params=to_dict(configured), tags=tags
    ) as recorded:
        inputs = _in_task(prepare, teacher, layout)
        checkpoint = train_runs.trained(
            folder,
            partial(build, teacher, layout, inputs, fold),
            training=teacher.training,
            scaling=teacher.scaling,
            train_runs=layout.train_runs,
            key=work,
            run=recorded,
            force=force,
        )
        progress = _in_task(finish, teacher, layout, inputs, fold, checkpoint, uri, work, to_dict(configured))
        recorded.log_metrics({"best": progress.best, "best_epoch": progress.best_epoch})
        recorded.set_tags({"checkpoint": uri})
        train_runs.discard(folder, train_runs=layout.train_runs, key=work)
    return train_runs.describe(progress)


def _in_task(work: Callable[..., T], teacher: TeacherSettings, *arguments: Any) -> T:
    """`work` where a worker could be: the driver's node may have neither GPU nor the model that is named."""
    task: Any = ray.remote(num_cpus=teacher.scaling.cpus, num_gpus=min(teacher.scaling.gpus, 1))(work)
    done: T = runtime.result(task.remote(teacher, *arguments))
    return done


def prepare(teacher: TeacherSettings, layout: Layout) -> dict[str, str]:
    """In a task: what the teacher is built from besides the dataset, as storage URIs."""
    import torch

    torch.set_num_threads(max(1, round(teacher.scaling.cpus)))
    printed = time.monotonic()

    def progress(done: int, total: int) -> None:
        nonlocal printed
        if time.monotonic() - printed > 4 or done == total:
            printed = time.monotonic()
            print(f"teacher: {done:,} of {total:,} titles embedded", flush=True)

    return teacher_class(teacher.model.kind).prepare(
        teacher.model,
        PreparedDataset.load(layout.dataset),
        cache=layout.storage_root,
        student=layout.student,
        progress=progress,
    )


def build(
    teacher: TeacherSettings, layout: Layout, inputs: dict[str, str], fold: int | None = None
) -> tuple[Objective, PreparedDataset, TrainingConfig]:
    """In a worker: data (without the users of a fold) and inputs from storage, the model and its loss."""
    dataset = PreparedDataset.load(layout.dataset)
    if fold is not None:
        dataset = dataset.without_training_rows_of(dataset.folds(teacher.folds) == fold)
    cls = teacher_class(teacher.model.kind)
    return cls.objective(teacher.model, dataset, inputs, seed=teacher.training.seed), dataset, teacher.training


def finish(
    teacher: TeacherSettings,
    layout: Layout,
    inputs: dict[str, str],
    fold: int | None,
    trained: Any,
    uri: str,
    key: str,
    settings: dict[str, Any],
) -> Progress:
    """In a task: the teacher's checkpoint at `uri`, of the best weights of its training.

    Args:
        trained: what `train_runs.trained` gave.
        settings: what the checkpoint says of its making.
    """
    import torch

    from ray_jobs import train_runs

    torch.set_num_threads(max(1, round(teacher.scaling.cpus)))
    result = train_runs.load(trained)
    objective, dataset, _ = build(teacher, layout, inputs, fold)
    model = objective.model
    assert isinstance(model, Teacher)
    # ZeRO in bf16 trains a bf16 copy; what is stored is fp32, and what is not trained (buffers of texts and ids,
    # frozen weights) is as it was given.
    given = {name for name, _ in model.named_buffers()} - model.computed_buffers
    given |= {name for name, weight in model.named_parameters() if not weight.requires_grad}
    state = {name: tensor.float() for name, tensor in result.state.items()} | {
        name: tensor for name, tensor in model.state_dict().items() if name in given & result.state.keys()
    }
    state = model.to("cuda" if torch.cuda.is_available() else "cpu").finished(state, dataset)
    info = {"training": train_runs.describe(result.progress), "settings": settings}
    save_checkpoint(uri, model, dataset, state=state, key=key, info=info)
    return result.progress


def main() -> None:
    def body(settings: Settings, args: argparse.Namespace) -> None:
        run(settings, force=args.force)

    cli.run_job(__doc__, body)


if __name__ == "__main__":
    main()
