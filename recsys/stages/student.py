"""Students, alone or taught by a teacher's signals.

A finished student whose configuration and inputs are unchanged is left as it is; an interrupted one continues from its
last epoch.
"""

from functools import partial
from typing import Any

from torch import Tensor

from recsys.checkpoint import load_checkpoint, save_checkpoint
from recsys.config import digest, key_values, to_dict
from recsys.data.prepared import PreparedDataset
from recsys.errors import UserError
from recsys.kinds import import_place
from recsys.model import Made
from recsys.rules.config import RulesTuningConfig
from recsys.settings import Layout, Settings, StudentSettings
from recsys.signals.signals import TeacherSignals
from recsys.signals.states import StoredStates
from recsys.stages import rules as rules_stage
from recsys.stages.artefacts import alone, fingerprint, is_current, require, start_run
from recsys.stages.executor import Executor, Trained
from recsys.stages.title_side import read_title_side
from recsys.students.build import build_student
from recsys.students.config import SLMRecConfig
from recsys.students.items import PROJECTOR, DistilledItemTable, ItemTable, TableRecommender
from recsys.students.titles import TitleProjector
from recsys.training.config import TrainingConfig
from recsys.training.loop import Progress
from recsys.training.objective import NextItemObjective, Objective, RankingTeacher


def key(settings: Settings, name: str) -> str:
    """Digest of what makes this student: its configuration, the dataset and, if distilled, the signals or the teacher.

    Raises:
        UserError: there is no such student, or an input is missing.
    """
    student = find(settings, name)
    inputs = [fingerprint(settings.layout)]
    for signals in dict.fromkeys(signals_uris(student, settings.layout)):
        inputs.append(require(signals, "set of teacher signals", _pass(settings, signals)).content_hash)
    if student.model.with_rules:
        inputs.append(require(rules_stage.best(settings.layout), "sequential rules", "rules").content_hash)
        inputs.append(digest(key_values(settings.rules.tuning or RulesTuningConfig())))
    if (made_from := student.model.made_from) is not None:
        uri = teacher_uri(student, settings.layout)
        job = f"distill --student {made_from}" if made_from else "train_teacher"
        inputs.append(require(uri, f"teacher of student {name}", job).content_hash)
    return digest({"student": key_values(student), "inputs": inputs})


def find(settings: Settings, name: str) -> StudentSettings:
    if name not in settings.students:
        known = ", ".join(settings.students) or "none"
        raise UserError(f"the configuration has no student {name!r}; it has: {known}")
    return settings.students[name]


@alone(lambda settings, name, *_, **__: (settings.layout.student(name), f"student {name}"))
def make(settings: Settings, name: str, executor: Executor, *, force: bool = False) -> dict[str, Any]:
    """Train one student; its checkpoint lies at `settings.layout.student(name)`.

    Returns:
        What the checkpoint says of its training, or {} where it was current.
    """
    student = find(settings, name)
    layout = settings.layout
    work = key(settings, name)
    if not force and is_current(layout.student(name), work):
        print(f"student {name}: unchanged, kept", flush=True)
        return {}
    if not student.model.trained:
        return _make_untrained(name, settings, executor, work)
    with start_run(
        settings,
        f"distill {name}",
        params=to_dict(student),
        tags={"student": name, "dataset": fingerprint(layout)},
    ) as recorded:
        trained = executor.fit(
            f"student-{name}",
            partial(build, student, layout),
            training=student.training,
            scaling=student.scaling,
            train_runs=layout.train_runs,
            key=work,
            run=recorded,
            force=force,
        )
        progress = finish(student, layout, trained, layout.student(name), work)
        recorded.log_metrics({"best": progress.best, "best_epoch": progress.best_epoch})
        recorded.set_tags({"checkpoint": layout.student(name)})
        executor.discard(f"student-{name}", train_runs=layout.train_runs, key=work)
    return progress.describe()


def finish(student: StudentSettings, layout: Layout, trained: Trained, uri: str, work: str) -> Progress:
    """The student's checkpoint at `uri`, of the best weights of its training, the teacher's embeddings folded in."""
    result = trained()
    objective, dataset, _ = build(student, layout)
    info: dict[str, Any] = {"training": result.progress.describe(), "settings": to_dict(student)}
    if isinstance(objective, NextItemObjective) and objective.teacher is not None:
        info["teacher"] = objective.teacher.describe()
    state = {name: tensor for name, tensor in result.state.items() if not name.startswith(PROJECTOR)}
    projector = {name.removeprefix(PROJECTOR): result.state[name] for name in result.state.keys() - state.keys()}
    if projector and isinstance(objective.model, TableRecommender):
        try:
            objective.model.title_projector = _title_projector(
                student, layout, dataset, objective.model.items, projector
            )
        except UserError as error:  # told by whoever asks for new items
            info["no_new_items"] = str(error)
    save_checkpoint(uri, objective.model, dataset, state=state, key=work, info=info)
    return result.progress


def _title_projector(
    student: StudentSettings, layout: Layout, dataset: PreparedDataset, items: ItemTable, projector: dict[str, Tensor]
) -> TitleProjector:
    """What gives new items their vectors.

    Raises:
        UserError: the teacher's embeddings are not made from titles.
    """
    assert student.distillation is not None and student.distillation.embedding is not None
    assert isinstance(items, DistilledItemTable)
    side = read_title_side(rankings_uri(student, layout), student.distillation.embedding.source, layout, dataset)
    return TitleProjector.of(side, projector, items.mean, items.scale, items.mix)


def _make_untrained(name: str, settings: Settings, executor: Executor, work: str) -> dict[str, Any]:
    """A student made of what is trained already."""
    student, layout = find(settings, name), settings.layout
    with start_run(
        settings,
        f"make {name}",
        params=to_dict(student.model),
        tags={"student": name, "dataset": fingerprint(layout), "checkpoint": layout.student(name)},
    ) as recorded:
        line, metrics = executor.call(
            partial(_combine, name, settings, work),
            cpus=student.scaling.cpus,
            gpus=0,
            section=f"students.{name}.scaling",
        )
        recorded.log_metrics(metrics)
    print(f"student {name}: {line}", flush=True)
    return {}


def _combine(name: str, settings: Settings, work: str) -> tuple[str, dict[str, float]]:
    """In a worker: the checkpoint of a student made without training; what was done, and its metrics."""
    student, layout = find(settings, name), settings.layout
    dataset, source = PreparedDataset.load(layout.dataset), load_checkpoint(teacher_uri(student, layout))
    others: dict[str, Any] = {}
    if student.model.with_rules:
        others["rules"] = load_checkpoint(rules_stage.best(layout))
        others["tuning"] = settings.rules.tuning or RulesTuningConfig()
    try:
        made: Made = import_place(student.model.maker)(student.model, source, dataset, **others)
    except UserError as error:
        raise UserError(f"students.{name}: {error}") from None
    training = {**source.info.get("training", {}), **made.training}
    info = {"training": training, "settings": to_dict(student)}
    save_checkpoint(layout.student(name), made.model, dataset, key=work, info=info)
    return made.line, made.metrics


def build(student: StudentSettings, layout: Layout) -> tuple[Objective, PreparedDataset, TrainingConfig]:
    """In a worker: data from storage, the model and its losses."""
    dataset = PreparedDataset.load(layout.dataset)
    signals = TeacherSignals.load(rankings_uri(student, layout), dataset) if student.distillation else None
    return assemble(student, dataset, signals, layout), dataset, student.training


def assemble(
    student: StudentSettings,
    dataset: PreparedDataset,
    signals: TeacherSignals | None,
    layout: Layout,
    stored: StoredStates | None = None,
) -> Objective:
    """The model and its losses; the data is in memory, the teacher of a cut student comes from its checkpoint.

    Args:
        stored: the teacher's stored states where they are in memory too; where they are not, they are read if needed.
    """
    if isinstance(student.model, SLMRecConfig):
        from recsys.students.slmrec import build_slmrec

        ranking, seed = student.distillation.ranking if student.distillation else None, student.training.seed
        return build_slmrec(
            student.model,
            dataset,
            load_checkpoint(teacher_uri(student, layout)),
            loss=student.loss,
            alignment=student.alignment,
            rankings=RankingTeacher(signals, dataset, ranking, seed=seed) if signals and ranking else None,
            stored=(stored or StoredStates.load(states_uri(student, layout), dataset)) if student.stored else None,
            seed=seed,
        )
    if not student.model.trained:
        raise UserError(f"a student of kind {student.model.kind} is not trained; name the student that it is made from")
    return build_student(
        student.model,
        dataset,
        loss=student.loss,
        distillation=student.distillation,
        signals=signals,
        seed=student.training.seed,
    )


def rankings_uri(student: StudentSettings, layout: Layout) -> str:
    """The set of teacher signals whose rankings and embeddings a student learns from."""
    return layout.signals_of(student.distillation.signals if student.distillation else None)


def states_uri(student: StudentSettings, layout: Layout) -> str:
    """The set of teacher signals whose stored states a student learns from."""
    return layout.signals_of(student.alignment.signals if student.alignment else None)


def signals_uris(student: StudentSettings, layout: Layout) -> list[str]:
    """The sets of teacher signals that must be there before a student is trained."""
    uris = [rankings_uri(student, layout)] if student.distillation else []
    return uris + ([states_uri(student, layout)] if student.stored else [])


def _pass(settings: Settings, uri: str) -> str:
    """What to run for a set of signals that is not there."""
    if uri == settings.layout.signals:
        return "infer_teacher"
    if uri == settings.layout.signals_of(rules_stage.SIGNALS):
        return "rules"
    name = uri.rpartition("/signals")[2].removeprefix("-")
    return f"infer_teacher with signals.name={name or repr(name)} (and the teacher that is to make it)"


def teacher_uri(student: StudentSettings, layout: Layout) -> str:
    """Checkpoint that a student of kind slmrec is cut from, or one of kind compressed or hybrid is made from."""
    return layout.student(student.model.made_from) if student.model.made_from else layout.teacher


def order_students(settings: Settings) -> list[str]:
    """Names of the students: those without distillation first, and before each the student that it is cut from.

    Raises:
        UserError: a student is cut from one that is not there, or in the end from itself.
    """
    names: list[str] = []

    def add(name: str, waiting: tuple[str, ...]) -> None:
        if name in waiting:
            raise UserError(f"students.{name}.model.teacher: in the end it is its own teacher; name another")
        if name not in names:
            if above := find(settings, name).model.made_from:
                add(above, (*waiting, name))
            names.append(name)

    for name in sorted(settings.students, key=lambda name: settings.students[name].distilled):
        add(name, ())
    return names
