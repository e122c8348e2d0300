"""The teacher: item embeddings once, then the recommender on top of them (and, where `teacher.model.item_training` says
so, the item language model as well).

With `teacher.folds` one more is trained without each fold of the users. The vectors of titles are kept under the
storage root for every later run with the same titles and model.
"""

import dataclasses
from functools import partial
from typing import Any

from recsys.checkpoint import save_checkpoint
from recsys.config import digest, key_values, to_dict
from recsys.data.prepared import PreparedDataset
from recsys.settings import Layout, Settings, TeacherSettings
from recsys.stages.artefacts import alone, fingerprint, is_current, require, require_alone, start_run
from recsys.stages.executor import Executor, Trained, say_titles
from recsys.teacher import Teacher, teacher_class
from recsys.training.config import TrainingConfig
from recsys.training.loop import Progress
from recsys.training.objective import Objective


def key(settings: Settings) -> str:
    """Digest of what makes this teacher: its configuration, the dataset, its titles and the students it is built from.

    Raises:
        UserError: the dataset or a student is not there yet.
    """
    dataset = require(settings.layout.dataset, "prepared dataset", "prepare_data")
    inputs = [dataset.attributes["fingerprint"], dataset.files["items.parquet"]["sha256"]]
    for name in find_needed_students(settings):
        inputs.append(
            require(settings.layout.student(name), f"student {name}", f"distill --student {name}").content_hash
        )
    return digest({"teacher": key_values(settings.teacher), "inputs": inputs})


def find_needed_students(settings: Settings) -> list[str]:
    """Names of the students that are trained before the teacher, because it is built from them.

    Raises:
        UserError: there is no such student, or it would in turn learn from the teacher.
    """
    needed = settings.teacher.model.built_from
    for field, name in needed.items():
        require_alone(settings, name, f"teacher.model.{field}")
    return list(needed.values())


def make(settings: Settings, executor: Executor, *, force: bool = False) -> dict[str, Any]:
    """Train the teacher, and one for each fold; their checkpoints lie at `settings.layout.teacher` and beside it.

    Returns:
        What the teacher's checkpoint says of its training, or {} where it was current.
    """
    work = key(settings)
    trained = _train(settings, executor, settings.layout.teacher, "teacher", work, force=force)
    for fold in range(settings.teacher.folds):
        uri, name = settings.layout.teacher_of_fold(fold), f"teacher without fold {fold + 1}/{settings.teacher.folds}"
        _train(settings, executor, uri, name, digest([work, fold]), fold=fold, force=force)
    return trained


def estimate(settings: Settings) -> None:
    """Print what training will take; nothing is written, and of a language model only its configuration is read.

    Raises:
        UserError: the dataset, or that configuration, is not there.
    """
    from recsys.stages.teacher_size import lines

    require(settings.layout.dataset, "prepared dataset", "prepare_data")
    for line in lines(settings, PreparedDataset.load(settings.layout.dataset)):
        print(line, flush=True)


@alone(lambda _settings, _executor, uri, name, *_, **__: (uri, name))
def _train(
    settings: Settings, executor: Executor, uri: str, name: str, work: str, *, fold: int | None = None, force: bool
) -> dict[str, Any]:
    layout, configured = settings.layout, settings.teacher
    # What is known and recorded of it stays as it was written: a submitted job's folder is another one each time.
    teacher = dataclasses.replace(configured, model=configured.model.with_absolute_folders())
    if not force and is_current(uri, work):
        print(f"{name}: unchanged, kept", flush=True)
        return {}
    tags = {"dataset": fingerprint(layout)}
    step = "train_teacher" if fold is None else f"train_teacher without fold {fold}"
    folder = "teacher" if fold is None else f"teacher-fold-{fold}"
    with start_run(settings, step, params=to_dict(configured), tags=tags) as recorded:
        # Neither the titles nor the checkpoint are for the driver: its node may have neither GPU nor the model named.
        where: dict[str, Any] = {
            "cpus": teacher.scaling.cpus,
            "gpus": min(teacher.scaling.gpus, 1),
            "section": "teacher.scaling",
        }
        inputs = executor.call(partial(prepare, teacher, layout), **where)
        trained = executor.fit(
            folder,
            partial(build, teacher, layout, inputs, fold),
            training=teacher.training,
            scaling=teacher.scaling,
            train_runs=layout.train_runs,
            key=work,
            run=recorded,
            force=force,
        )
        complete = partial(finish, teacher, layout, inputs, fold, trained, uri, work, to_dict(configured))
        progress = executor.call(complete, **where)
        recorded.log_metrics({"best": progress.best, "best_epoch": progress.best_epoch})
        recorded.set_tags({"checkpoint": uri})
        executor.discard(folder, train_runs=layout.train_runs, key=work)
    return progress.describe()


def prepare(teacher: TeacherSettings, layout: Layout) -> dict[str, str]:
    """What the teacher is built from besides the dataset, as storage URIs."""
    return teacher_class(teacher.model.kind).prepare(
        teacher.model,
        PreparedDataset.load(layout.dataset),
        cache=layout.storage_root,
        student=layout.student,
        progress=say_titles("teacher"),
    )


def build(
    teacher: TeacherSettings, layout: Layout, inputs: dict[str, str], fold: int | None = None
) -> tuple[Objective, PreparedDataset, TrainingConfig]:
    """Data (without the users of a fold) and inputs from storage, the model and its loss."""
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
    trained: Trained,
    uri: str,
    key: str,
    settings: dict[str, Any],
) -> Progress:
    """The teacher's checkpoint at `uri`, of the best weights of its training.

    Args:
        settings: what the checkpoint says of its making.
    """
    import torch

    result = trained()
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
    state = model.to("cuda" if torch.cuda.is_available() else "cpu").finish(state, dataset)
    info = {"training": result.progress.describe(), "settings": settings}
    save_checkpoint(uri, model, dataset, state=state, key=key, info=info)
    return result.progress
