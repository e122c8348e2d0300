"""Let the teacher rank the catalogue for every row, once: the signals that all students learn from.

    python -m ray_jobs.infer_teacher --config ray_jobs/configs/demo.yaml
    ray job submit --working-dir . -- python -m ray_jobs.infer_teacher --config ray_jobs/configs/demo.yaml \\
        signals.actors=8 signals.gpus=1
    python -m ray_jobs.infer_teacher --config ray_jobs/configs/demo.yaml --estimate     # what it will cost

A Ray Data pipeline carries shard numbers to a pool of actors. Each actor loads the dataset and the teacher once,
behind a DeepSpeed inference engine, ranks the rows of a shard and writes the shard itself; only counts travel back.
Teachers that score by dot products rank by causal passes over windows of the sequences (`recsys.inference.ranking`),
BIGRec by writing titles (`recsys.teachers.bigrec`). Nothing but the storage root is shared, so actors may live on any
node.

A killed pass started again does only what is missing. A change of the teacher, of the dataset or of what the rankings
depend on (`signals.k`, `splits`, `train_rows`, `mask_history`, `rows_per_shard`, `dtype`) starts afresh; actors and
batch size may change from run to run. Time is in proportion to interactions · N (scoring); memory per actor is that of
the teacher and its item vectors, and grows with `signals.batch_size` and K, whatever the number of rows.
"""

import argparse
import dataclasses
import time
from typing import TYPE_CHECKING

import numpy as np
import ray
import ray.data

from ray_jobs import cli, estimate_pass, runtime
from ray_jobs.settings import Settings
from ray_jobs.shard_ranking import plan_shards, rank_until_whole
from recsys import storage, tracking
from recsys.checkpoint import Checkpoint
from recsys.config import digest, to_dict, without_unasked
from recsys.data.prepared import PreparedDataset
from recsys.errors import UserError
from recsys.inference.replica import load_teacher, threads
from recsys.signals.config import SignalsConfig
from recsys.signals.signals import SignalsMeta, TeacherSignals
from recsys.signals.states import StatesMeta
from recsys.signals.writer import ShardPlan, SignalsWriter

if TYPE_CHECKING:
    from recsys.teacher import Teacher

_WITHOUT_EFFECT = {
    "actors",
    "max_actors",
    "cpus",
    "gpus",
    "batch_size",
    "tensor_parallel",
    "kernel_injection",
}  # on the rankings
_OPTIONS = {"log_mass", "states"}  # no part of the key where they are not asked for


def key(settings: Settings) -> str:
    """Digest of everything the signals depend on.

    Raises:
        UserError: the dataset or the teacher is not there yet.
    """
    said = without_unasked(settings.signals, _OPTIONS)
    config = {name: value for name, value in said.items() if name not in _WITHOUT_EFFECT}
    if config["rows_per_shard"] is None:
        config["rows_per_shard"] = 8192  # what it was for all kinds: passes made then are kept
    inputs = {
        "dataset": cli.fingerprint(settings.layout),
        "teacher": cli.required(settings.layout.teacher, "teacher", "train_teacher").content_hash,
    }
    for fold in range(settings.teacher.folds):
        what = f"teacher without fold {fold + 1}"
        inputs[what] = cli.required(settings.layout.teacher_of_fold(fold), what, "train_teacher").content_hash
    return digest({"signals": config, **inputs})


def run(settings: Settings, *, force: bool = False) -> None:
    """Make the signals of `settings.layout.signals`, unless they are there."""
    layout, work_key = settings.layout, key(settings)
    if not force and cli.is_current(layout.signals, work_key):
        print(f"signals: {layout.signals} is up to date", flush=True)
        return
    dataset = PreparedDataset.load(layout.dataset)
    checkpoint = load_teacher(layout.teacher, dataset, "meta")
    settings = covered(settings, type(_teacher(checkpoint)))
    config, plan = settings.signals, plan_shards(settings.signals, dataset)
    from recsys.inference.ranking import check_k

    check_k(dataset, plan.rows, config.k, config.mask_history)
    teacher = _teacher(checkpoint)
    if config.log_mass and teacher.score_meaning != "logit":
        raise UserError(
            f"signals.log_mass is of logits, but {teacher.kind} scores by {teacher.score_meaning}; leave it out"
        )
    states = states_meta(config, teacher)
    writer = SignalsWriter(layout.signals, key=work_key, k=config.k)
    if force:
        storage.delete(writer.work)
    missing = writer.missing(plan)
    parameters = {"signals": to_dict(config), "rows": len(plan.rows), "shards": len(plan)}
    tags = {"dataset": dataset.fingerprint}
    with tracking.start_run(
        settings.tracking, layout.mlflow, settings.name, "infer_teacher", params=parameters, tags=tags
    ) as record:
        started = time.perf_counter()
        if len(missing) < len(plan):
            print(f"signals: {len(plan) - len(missing)} of {len(plan)} shards are already there", flush=True)
        if states:
            print(describe_states(states, dataset, plan), flush=True)
        runtime.connect()
        estimate_pass.check_room(config)
        if missing:
            rank_until_whole(settings, plan, writer, missing, states)
        seconds = time.perf_counter() - started
        ranked = sum(len(plan.shard(n)) for n in missing)
        cpus, gpus = estimate_pass.resources(config)
        task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0)(finalise)  # the driver has no room for a teacher
        meta, aside = runtime.result(task.remote(settings, plan, writer, seconds, ranked, states))
        record.log_metrics({name: float(v) for name, v in meta.cost.items() if isinstance(v, int | float)})
    if len(aside):
        user = dataset.user_ids[int(dataset.users_of(aside[:1])[0])]
        print(
            f"signals: {len(aside):,} rows were set aside, their prediction is not finite (the first is row "
            f"{aside[0]}, of user {user!r}); students take them as they are"
        )
    print(
        f"signals: {len(plan.rows) - len(aside):,} rows ranked, top {config.k} each, in {seconds:.1f} s "
        f"({meta.cost['rows_per_teacher_second']:,} rows a second and actor); {layout.signals}",
        flush=True,
    )


def estimate(settings: Settings) -> None:
    """Print what the pass will cost; nothing is written."""
    key(settings)  # says what is missing
    dataset = PreparedDataset.load(settings.layout.dataset)
    checkpoint = load_teacher(settings.layout.teacher, dataset, "meta")
    settings = covered(settings, type(_teacher(checkpoint)))
    plan = plan_shards(settings.signals, dataset)
    if states := states_meta(settings.signals, _teacher(checkpoint)):
        print(describe_states(states, dataset, plan), flush=True)
    for line in estimate_pass.run(settings, plan):
        print(line, flush=True)


def states_meta(config: SignalsConfig, teacher: "Teacher") -> StatesMeta | None:
    """Which states the pass stores, None for none.

    Raises:
        UserError: the teacher has no layers to speak of, or not so many blocks of them.
    """
    if config.states is None:
        return None
    from recsys.losses.alignment import block_ends, common_blocks
    from recsys.teachers.layered import LayeredTeacher

    if not isinstance(teacher, LayeredTeacher):
        raise UserError(
            f"signals.states needs a teacher of kind e4srec or hllm, but this one is of kind {teacher.kind}"
        )
    if teacher.depth % config.states.blocks:
        possible = ", ".join(map(str, common_blocks(teacher.depth, teacher.depth)))
        raise UserError(
            f"signals.states.blocks is {config.states.blocks}, which does not divide the teacher's {teacher.depth} "
            f"layers; possible: {possible}"
        )
    layers = block_ends(teacher.depth, config.states.blocks)
    return StatesMeta(layers=layers, width=teacher.width, dtype=config.states.dtype)


def describe_states(states: StatesMeta, dataset: PreparedDataset, plan: ShardPlan) -> str:
    rows = int(np.isin(dataset.rows("train"), plan.rows).sum())
    layers = ", ".join(map(str, states.layers))
    size = states.bytes(rows) / 1e6
    return f"signals: states after layers {layers} of {rows:,} training rows take {size:,.1f} MB in {states.dtype}"


def covered(settings: Settings, teacher: "type[Teacher]") -> Settings:
    """The settings with what this kind of teacher leaves open: the training rows to rank, and the rows of a shard."""
    config = settings.signals
    if config.train_rows is None:
        config = dataclasses.replace(config, train_rows=teacher.default_train_rows)
    if config.rows_per_shard is None:
        config = dataclasses.replace(config, rows_per_shard=teacher.default_rows_per_shard)
    return dataclasses.replace(settings, signals=config)


def _teacher(checkpoint: Checkpoint) -> "Teacher":
    from recsys.teacher import Teacher

    assert isinstance(checkpoint.model, Teacher)
    return checkpoint.model


def finalise(
    settings: Settings,
    plan: ShardPlan,
    writer: SignalsWriter,
    seconds: float,
    ranked: int,
    states: StatesMeta | None,
) -> tuple[SignalsMeta, np.ndarray]:
    """In a task: seal the signals, and read them back as a student will.

    Returns:
        What they say of themselves, and the rows that were set aside.
    """
    import torch

    torch.set_num_threads(threads(settings.signals))
    dataset = PreparedDataset.load(settings.layout.dataset)
    checkpoint = load_teacher(settings.layout.teacher, dataset)
    config, teacher = settings.signals, _teacher(checkpoint)
    cpus, gpus = estimate_pass.resources(config)
    with torch.inference_mode():
        item_embeddings = teacher.item_embeddings()
    meta = SignalsMeta(
        teacher=teacher.kind,
        checkpoint_hash=checkpoint.hash,
        fingerprint=dataset.fingerprint,
        k=config.k,
        score_meaning=teacher.score_meaning,
        higher_is_better=teacher.higher_is_better,
        distance_meaning=teacher.distance_meaning,
        masked_history=config.mask_history,
        log_mass=config.log_mass,
        trained_on=[] if settings.teacher.folds else ["train"],
        settings={
            "rows_per_shard": config.rows_per_shard,
            "max_history": dataset.max_history,
            "dtype": config.dtype,
            **({"folds": settings.teacher.folds} if settings.teacher.folds else {}),
            "teacher": teacher.describe(),
        },
        cost={
            "seconds_of_last_run": round(seconds, 3),
            "rows_of_last_run": ranked,
            "actors": config.actors,
            **({"max_actors": config.max_actors} if config.max_actors else {}),
            "cpus_per_actor": cpus,
            "gpus_per_actor": gpus,
        },
        states=dataclasses.asdict(states) if states else None,
    )
    splits = {split: dataset.rows(split) for split in config.splits}
    aside = writer.finalise(plan, meta, item_embeddings, teacher.text_embeddings(), devices=gpus or cpus, splits=splits)
    TeacherSignals.load(settings.layout.signals, dataset)
    return meta, aside


def main() -> None:
    def arguments(parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--estimate", action="store_true", help="time a sample, say what the pass will cost, and end"
        )

    def body(settings: Settings, args: argparse.Namespace) -> None:
        if args.estimate:
            estimate(settings)
        else:
            run(settings, force=args.force)

    cli.run_job(__doc__, body, arguments)


if __name__ == "__main__":
    main()
