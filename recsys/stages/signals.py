"""The teacher's signals: its ranking of the catalogue for every row, once, which all students learn from.

Teachers that score by dot products rank by causal passes over windows of the sequences (`recsys.inference.ranking`),
BIGRec by writing titles (`recsys.teachers.bigrec`). A killed pass started again does only what is missing.

`signals.name` names the set that is made, so that those of several teachers lie side by side. A set that was there
before is replaced once the new one is complete.
"""

import dataclasses
import time
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from recsys import storage
from recsys.checkpoint import Checkpoint
from recsys.config import digest, key_values, to_dict
from recsys.data.prepared import PreparedDataset
from recsys.errors import UserError
from recsys.inference.replica import load_teacher
from recsys.settings import Settings
from recsys.signals.config import SignalsConfig
from recsys.signals.signals import SignalsMeta, TeacherSignals
from recsys.signals.states import StatesMeta
from recsys.signals.writer import ShardPlan, SignalsWriter
from recsys.stages import estimate as estimates
from recsys.stages import row_choice
from recsys.stages.artefacts import alone, fingerprint, is_current, require, start_run
from recsys.stages.executor import Executor
from recsys.stages.shards import ShardedPass, plan_shards, teacher_uris
from recsys.stages.worth_it import read_warnings

if TYPE_CHECKING:
    from recsys.teacher import Teacher


def key(settings: Settings) -> str:
    """Digest of everything the signals depend on.

    Raises:
        UserError: the dataset, the teacher, or what training rows are chosen by, is not there yet.
    """
    inputs = {
        "dataset": fingerprint(settings.layout),
        "teacher": require(settings.layout.teacher, "teacher", "train_teacher").content_hash,
    }
    for fold in range(settings.teacher.folds):
        what = f"teacher without fold {fold + 1}"
        inputs[what] = require(settings.layout.teacher_of_fold(fold), what, "train_teacher").content_hash
    return digest({"signals": key_values(settings.signals), **inputs, **row_choice.inputs(settings)})


@alone(lambda settings, *_, **__: (settings.layout.signals, f"signals {settings.layout.signals}"))
def make(settings: Settings, executor: Executor, *, force: bool = False) -> None:
    """Make the signals of `settings.layout.signals`, unless they are there."""
    layout, work_key = settings.layout, key(settings)
    if not force and is_current(layout.signals, work_key):
        print(f"signals: {layout.signals} is up to date", flush=True)
        return
    dataset = PreparedDataset.load(layout.dataset)
    checkpoint = load_teacher(layout.teacher, dataset, "meta")
    settings = fill_open(settings, type(_teacher(checkpoint)))
    config, chosen = settings.signals, row_choice.make(settings, executor, force=force)
    plan = plan_shards(config, dataset, chosen)
    from recsys.inference.ranking import check_k

    check_k(dataset, plan.rows, config.k, config.mask_history)
    teacher = _teacher(checkpoint)
    if config.log_mass and teacher.score_meaning != "logit":
        raise UserError(
            f"signals.log_mass is of logits, but {teacher.kind} scores by {teacher.score_meaning}; leave it out"
        )
    states = states_meta(config, teacher)
    work = ShardedPass(layout.dataset, teacher_uris(settings), layout.signals, work_key, config, states, chosen)
    writer = work.writer
    if force:
        storage.delete(writer.work)
    missing = writer.missing(plan)
    parameters = {"signals": to_dict(config), "rows": len(plan.rows), "shards": len(plan)}
    tags = {"dataset": dataset.fingerprint}
    with start_run(settings, "infer_teacher", params=parameters, tags=tags) as record:
        started = time.perf_counter()
        if len(missing) < len(plan):
            print(f"signals: {len(plan) - len(missing)} of {len(plan)} shards are already there", flush=True)
        if states:
            print(describe_states(states, dataset, plan), flush=True)
        if missing:
            for said in read_warnings(layout, dataset.fingerprint) if "train" in config.splits else ():
                print(f"worth_it has warned: {said}", flush=True)
            executor.rank(work, plan, missing)
        seconds = time.perf_counter() - started
        ranked = plan.count(missing)
        cpus, gpus = config.resources
        seal = partial(finalise, settings, plan, writer, seconds, ranked, states)
        # Not here: the driver has no room for a teacher.
        meta, aside = executor.call(seal, cpus=cpus, gpus=gpus, section="signals", retry=False)
        record.log_metrics({name: float(v) for name, v in meta.cost.items() if isinstance(v, int | float)})
    if len(aside):
        user = dataset.user_ids[int(dataset.users_of(aside[:1])[0])]
        print(
            f"signals: {len(aside):,} rows were set aside, their prediction is not finite (the first is row "
            f"{aside[0]}, of user {user!r}); students take them as they are"
        )
    print(
        f"signals: {len(plan.rows) - len(aside):,} rows ranked, top {config.k} each, in {seconds:.1f} s "
        f"({meta.cost['rows_per_teacher_second']:,} rows/s per actor); {layout.signals}",
        flush=True,
    )


def estimate(settings: Settings, executor: Executor) -> None:
    """Print what the pass will cost; nothing is written."""
    key(settings)  # says what is missing
    dataset = PreparedDataset.load(settings.layout.dataset)
    checkpoint = load_teacher(settings.layout.teacher, dataset, "meta")
    settings = fill_open(settings, type(_teacher(checkpoint)))
    plan = plan_shards(settings.signals, dataset)
    if states := states_meta(settings.signals, _teacher(checkpoint)):
        print(describe_states(states, dataset, plan), flush=True)
    for line in estimates.run(settings, plan, executor):
        print(line, flush=True)


def states_meta(config: SignalsConfig, teacher: "Teacher") -> StatesMeta | None:
    """Which states the pass stores, None for none.

    Raises:
        UserError: the teacher has no layers to speak of, or too few for the blocks.
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


def fill_open(settings: Settings, teacher: "type[Teacher]") -> Settings:
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
    """Seal the signals, and read them back as a student will.

    Returns:
        What they say of themselves, and the rows that were set aside.
    """
    import torch

    dataset = PreparedDataset.load(settings.layout.dataset)
    checkpoint = load_teacher(settings.layout.teacher, dataset)
    config, teacher = settings.signals, _teacher(checkpoint)
    cpus, gpus = config.resources
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
            **config.choice,
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
