"""Train students on Ray Train, alone or taught by a teacher's signals.

    python -m ray_jobs.distill --config ray_jobs/configs/demo.yaml --student sasrec-distilled
    ray job submit --working-dir . -- python -m ray_jobs.distill --config ray_jobs/configs/demo.yaml

Without --student every student of the configuration is trained, those without distillation first. A student takes part
of its name's section: `students.sasrec.training.epochs=50` changes one value. A finished student whose configuration
and inputs are unchanged is left as it is; an interrupted one continues from its last epoch.
"""

import argparse
from functools import partial
from typing import Any

from ray_jobs import cli
from ray_jobs.settings import Layout, Settings, StudentSettings
from recsys import tracking
from recsys.checkpoint import load_checkpoint, save_checkpoint
from recsys.config import digest, to_dict, without_unasked
from recsys.data.prepared import PreparedDataset
from recsys.errors import UserError
from recsys.signals.signals import TeacherSignals
from recsys.signals.states import StoredStates
from recsys.students.build import build_student
from recsys.students.config import CompressedConfig
from recsys.students.items import with_plain_items
from recsys.training.config import TrainingConfig
from recsys.training.objective import Objective, RankingTeacher


def key(settings: Settings, name: str) -> str:
    """Digest of what makes this student: its configuration, the dataset and, if distilled, the signals or the teacher.

    Raises:
        UserError: there is no such student, or an input is missing.
    """
    student = find(settings, name)
    inputs = [cli.fingerprint(settings.layout)]
    if student.needs_signals:
        inputs.append(cli.required(settings.layout.signals, "set of teacher signals", "infer_teacher").content_hash)
    if student.model.kind in ("slmrec", "compressed"):
        uri = teacher_uri(student, settings.layout)
        job = f"distill --student {student.model.teacher}" if student.model.teacher else "train_teacher"
        inputs.append(cli.required(uri, f"teacher of student {name}", job).content_hash)
    said = to_dict(student)
    if student.alignment:
        said["alignment"] = without_unasked(student.alignment, {"stored"})
    # Where workers run does not change what is learned; how many there are changes rounding only.
    return digest({"student": {**said, "scaling": None}, "inputs": inputs})


def find(settings: Settings, name: str) -> StudentSettings:
    if name not in settings.students:
        known = ", ".join(settings.students) or "none"
        raise UserError(f"the configuration has no student {name!r}; it has: {known}")
    return settings.students[name]


def run(settings: Settings, name: str, *, force: bool = False) -> dict[str, Any]:
    """Train one student; its checkpoint lies at `settings.layout.student(name)`.

    Returns:
        What the checkpoint says of its training, or {} where it was current.
    """
    student = find(settings, name)
    layout = settings.layout
    work = key(settings, name)
    if not force and cli.is_current(layout.student(name), work):
        print(f"student {name}: unchanged, kept", flush=True)
        return {}
    if student.model.kind == "compressed":
        return _compress(student.model, name, settings, work)
    from ray_jobs import runtime, train_runs

    runtime.connect()
    with tracking.start_run(
        settings.tracking,
        layout.mlflow,
        settings.name,
        f"distill {name}",
        params=to_dict(student),
        tags={"student": name, "dataset": cli.fingerprint(layout)},
    ) as recorded:
        result = train_runs.fit(
            f"student-{name}",
            partial(build, student, layout),
            training=student.training,
            scaling=student.scaling,
            train_runs=layout.train_runs,
            key=work,
            run=recorded,
            force=force,
        )
        objective, dataset, _ = build(student, layout)
        with_plain_items(objective.model)
        info = {"training": train_runs.describe(result.progress), "settings": to_dict(student)}
        save_checkpoint(layout.student(name), objective.model, dataset, state=result.state, key=work, info=info)
        recorded.log_metrics({"best": result.progress.best, "best_epoch": result.progress.best_epoch})
        recorded.set_tags({"checkpoint": layout.student(name)})
        train_runs.discard(f"student-{name}", train_runs=layout.train_runs, key=work)
    return info["training"]


def _compress(model: CompressedConfig, name: str, settings: Settings, work: str) -> dict[str, Any]:
    """The smaller copy of a trained model; what its checkpoint says of training is the original's."""
    from recsys.decoders.compression import compressed
    from recsys.decoders.quantised import numbers_and_bytes
    from recsys.teachers.layered import LayeredTeacher

    student, layout = find(settings, name), settings.layout
    source, dataset = load_checkpoint(teacher_uri(student, layout)), PreparedDataset.load(layout.dataset)
    if not isinstance(source.model, LayeredTeacher):
        raise UserError(
            f"students.{name}: only language-model recommenders (e4srec or hllm, and slmrec students) are compressed, "
            f"but {teacher_uri(student, layout)} is of kind {source.model.kind}"
        )
    source.check_dataset(dataset, f"students.{name}: what it is made from", "train that on this dataset")
    small = compressed(source.model, model.compression)
    sizes = [numbers_and_bytes(each)[1] for each in (source.model, small)]
    with tracking.start_run(
        settings.tracking,
        layout.mlflow,
        settings.name,
        f"compress {name}",
        params=to_dict(student.model),
        tags={"student": name, "dataset": dataset.fingerprint, "checkpoint": layout.student(name)},
    ) as recorded:
        info = {"training": source.info.get("training", {}), "settings": to_dict(student)}
        save_checkpoint(layout.student(name), small, dataset, key=work, info=info)
        recorded.log_metrics({"bytes": float(sizes[1]), "bytes_before": float(sizes[0])})
    print(f"student {name}: {sizes[0] / 1e6:.2f} MB made {sizes[1] / 1e6:.2f} MB", flush=True)
    return {}


def build(student: StudentSettings, layout: Layout) -> tuple[Objective, PreparedDataset, TrainingConfig]:
    """In a worker: data from storage, the model and its losses."""
    dataset = PreparedDataset.load(layout.dataset)
    signals = TeacherSignals.load(layout.signals, dataset) if student.distillation else None
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
    if student.model.kind == "slmrec":
        from recsys.students.slmrec import build_slmrec

        ranking = student.distillation.ranking if student.distillation else None
        return build_slmrec(
            student.model,
            dataset,
            load_checkpoint(teacher_uri(student, layout)),
            loss=student.loss,
            alignment=student.alignment,
            rankings=RankingTeacher(signals, dataset, ranking) if signals and ranking else None,
            stored=(stored or StoredStates.load(layout.signals, dataset)) if student.stored else None,
            seed=student.training.seed,
        )
    if student.model.kind == "compressed":
        raise UserError("a student of kind compressed is not trained; name the student that it is made from")
    return build_student(
        student.model,
        dataset,
        loss=student.loss,
        distillation=student.distillation,
        signals=signals,
        seed=student.training.seed,
    )


def teacher_uri(student: StudentSettings, layout: Layout) -> str:
    """Checkpoint that a student of kind slmrec is cut from, or one of kind compressed is made from."""
    name = getattr(student.model, "teacher", "")
    return layout.student(name) if name else layout.teacher


def ordered(settings: Settings) -> list[str]:
    """Names of the students: those without distillation first, and before each the student that it is cut from.

    Raises:
        UserError: a student is cut from one that is not there, or in the end from itself.
    """
    names: list[str] = []

    def add(name: str, waiting: tuple[str, ...]) -> None:
        if name in waiting:
            raise UserError(f"students.{name}.model.teacher: in the end it is its own teacher; name another")
        if name not in names:
            if above := getattr(find(settings, name).model, "teacher", ""):
                add(above, (*waiting, name))
            names.append(name)

    for name in sorted(settings.students, key=lambda name: settings.students[name].distilled):
        add(name, ())
    return names


def main() -> None:
    def body(settings: Settings, args: argparse.Namespace) -> None:
        for name in [args.student] if args.student else ordered(settings):
            run(settings, name, force=args.force)

    cli.run_job(__doc__, body, lambda parser: parser.add_argument("--student", metavar="NAME"))


if __name__ == "__main__":
    main()
