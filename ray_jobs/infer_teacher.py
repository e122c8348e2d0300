"""Let the teacher rank the catalogue for every row, once: the signals that all students learn from.

    python -m ray_jobs.infer_teacher --config ray_jobs/configs/demo.yaml
    ray job submit --working-dir . -- python -m ray_jobs.infer_teacher --config ray_jobs/configs/demo.yaml \\
        signals.actors=8 signals.gpus=1
    python -m ray_jobs.infer_teacher --config ray_jobs/configs/demo.yaml --estimate     # what it will cost

A Ray Data pipeline carries shard numbers to a pool of actors. Each actor loads the dataset and the teacher once,
behind a DeepSpeed inference engine, ranks the rows of a shard and writes the shard itself; only counts travel back.
Teachers that score by dot products rank by causal passes over windows of the sequences (`recsys.teachers.ranking`),
BIGRec by writing titles (`recsys.teachers.bigrec`). Nothing but the storage root is shared, so actors may live on any
node.

A killed pass started again does only what is missing. A change of the teacher, of the dataset or of what the rankings
depend on (`signals.k`, `splits`, `train_rows`, `mask_history`, `rows_per_shard`, `dtype`) starts afresh; actors and
batch size may change from run to run. Time is in proportion to interactions · N (scoring); memory per actor is that of
the teacher and its item vectors, and grows with `signals.batch_size` and K, whatever the number of rows.
"""

import argparse
import dataclasses
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import ray
import ray.data

from ray_jobs import cli, estimate_pass, runtime
from ray_jobs.settings import Settings
from recsys import storage, tracking
from recsys.checkpoint import Checkpoint
from recsys.config import beyond_defaults, digest, to_dict
from recsys.data.prepared import PreparedDataset
from recsys.errors import UserError
from recsys.signals.signals import SignalsMeta, TeacherSignals
from recsys.signals.states import StatesMeta
from recsys.signals.writer import ShardPlan, SignalsWriter
from recsys.teachers.config import SignalsConfig
from recsys.teachers.replica import load_teacher, threads

if TYPE_CHECKING:
    from torch import Tensor

    from recsys.teachers.teacher import Teacher

_WITHOUT_EFFECT = {
    "actors",
    "max_actors",
    "cpus",
    "gpus",
    "batch_size",
    "tensor_parallel",
    "kernel_injection",
}  # on the rankings
_HOPELESS = 1000  # rows without one finite prediction; a pass that goes on from such shards is let be
_OPTIONS = {"log_mass", "states"}  # no part of the key where they are not asked for


def key(settings: Settings) -> str:
    """Digest of everything the signals depend on.

    Raises:
        UserError: the dataset or the teacher is not there yet.
    """
    asked = beyond_defaults(settings.signals)
    without = _WITHOUT_EFFECT | {name for name in _OPTIONS if name not in asked}
    config = {name: value for name, value in to_dict(settings.signals).items() if name not in without}
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
    config, plan = settings.signals, _plan(settings.signals, dataset)
    from recsys.teachers.ranking import check_k

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
            _rank_until_whole(settings, plan, writer, missing, states)
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
    plan = _plan(settings.signals, dataset)
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


def _plan(config: SignalsConfig, dataset: PreparedDataset) -> ShardPlan:
    assert config.rows_per_shard is not None, "filled in by `covered`"
    return ShardPlan.of(dataset, config.splits, config.rows_per_shard, train_rows=config.train_rows)


def _rank_until_whole(
    settings: Settings, plan: ShardPlan, writer: SignalsWriter, missing: list[int], states: StatesMeta | None
) -> None:
    """Ray starts a killed actor again by itself; where it cannot, new actors take what is left, as long as each pool
    gets on."""
    while missing:
        try:
            _rank_shards(settings, plan, writer, missing, states)
        except (ray.exceptions.RayActorError, ray.exceptions.WorkerCrashedError) as error:
            before, missing = missing, writer.missing(plan)
            if len(missing) == len(before):
                raise
            reason = str(error).splitlines()[0]
            print(f"signals: {reason} {len(missing)} of {len(plan)} shards are left", flush=True)
        else:
            return


def _rank_shards(
    settings: Settings, plan: ShardPlan, writer: SignalsWriter, missing: list[int], states: StatesMeta | None
) -> None:
    config = settings.signals
    # Progress is what this job prints; Ray Data's own bars and plans would only hide it.
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    actors = min(config.actors, len(missing))
    most = min(config.max_actors or config.actors, len(missing))
    cpus, gpus = estimate_pass.resources(config)
    total = sum(len(plan.shard(n)) for n in missing)
    print(f"signals: {total:,} rows in {len(missing)} shards on {_from_to(actors, most)} actors", flush=True)
    shards = ray.data.from_items([{"shard": n} for n in missing], override_num_blocks=len(missing))
    ranked = shards.map_batches(
        RankShard,
        fn_constructor_kwargs={
            "dataset_uri": settings.layout.dataset,
            "teacher_uris": teacher_uris(settings),
            "signals_uri": settings.layout.signals,
            "key": writer.key,
            "config": config,
            "states": states,
        },
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(min_size=actors, max_size=most),
        num_cpus=cpus,
        num_gpus=gpus,
    )
    failure = ""
    done = aside = 0
    with _progress(total) as advance:
        for row in ranked.iter_rows():
            done, aside = done + int(row["rows"]), aside + int(row["aside"])
            failure = row["error"]
            if aside == done >= _HOPELESS and len(missing) == len(plan):
                failure = (
                    f"the teacher's prediction is not finite for all of the first {done:,} rows; its checkpoint is not "
                    "usable, train it again (or run infer_teacher again to see whether it is for others)"
                )
            if failure:
                break  # leaving the loop ends the actors
            advance(int(row["rows"]), int(row["tokens"]))
    if failure:
        raise UserError(failure)


def _from_to(least: int, most: int) -> str:
    return str(least) if most == least else f"{least} to {most}"


def teacher_uris(settings: Settings) -> list[str]:
    """The teacher, and those that were trained without one of the folds."""
    return [settings.layout.teacher, *(settings.layout.teacher_of_fold(f) for f in range(settings.teacher.folds))]


class RankShard:
    """One actor of the pool: ranks the rows of a shard and writes it."""

    def __init__(
        self,
        *,
        dataset_uri: str,
        teacher_uris: list[str],
        signals_uri: str,
        key: str,
        config: SignalsConfig,
        states: StatesMeta | None = None,
    ) -> None:
        from recsys.teachers.replica import open_replica

        self._states = states
        self._dataset = PreparedDataset.load(dataset_uri)
        self._replica = open_replica(dataset_uri, config, self._dataset)
        self._plan = _plan(config, self._dataset)
        self._writer = SignalsWriter(signals_uri, key=key, k=config.k)
        self._uris = teacher_uris
        self._folds = len(teacher_uris) - 1
        self._fold_of_user = self._dataset.folds(self._folds) if self._folds else None

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Shard numbers → rows done, those of them set aside and tokens, one each, or the error that ends the pass."""
        counts, errors = [], []
        for number in batch["shard"].tolist():
            try:
                counts.append(self._rank(number))
                errors.append("")
            except UserError as error:  # as a value, because Ray Data would bury it under its own
                counts.append((0, 0, 0))
                errors.append(str(error))
        rows, aside, tokens = map(list, zip(*counts, strict=True))
        return {"rows": rows, "aside": aside, "tokens": tokens, "error": errors}

    def _rank(self, number: int) -> tuple[int, int, int]:
        rows = self._plan.shard(number)
        teacher_of_row = self._teacher_of(rows)
        from recsys.teachers.teacher import joined

        parts, seconds = [], 0.0
        for teacher in np.unique(teacher_of_row).tolist():
            uri = self._uris[teacher]
            self._replica.load(uri)
            started = time.perf_counter()
            parts.append(self._replica.rank(uri, rows[teacher_of_row == teacher]))
            seconds += time.perf_counter() - started
        ranked = joined(parts)
        aside = len(rows) - len(ranked.rows)
        self._writer.write_shard(
            number,
            ranked.rows,
            ranked.items,
            ranked.scores,
            ranked.target_distance,
            seconds=seconds,
            aside=aside,
            tokens=ranked.tokens,
            log_mass=ranked.log_mass,
            states=self._states_of(ranked.rows[np.isin(ranked.rows, self._dataset.rows("train"))]),
        )
        return len(rows), aside, ranked.tokens

    def _states_of(self, rows: np.ndarray) -> tuple[np.ndarray, "Tensor"] | None:
        """Rows and their states, which are those of the teacher that students are cut from, whoever ranks the rows."""
        if self._states is None or not len(rows):
            return None
        return rows, self._replica.states(self._uris[0], rows, self._states.layers, self._states.dtype)

    def _teacher_of(self, rows: np.ndarray) -> np.ndarray:
        """Which teacher ranks each row: 0 is the one that knows all training rows, f+1 the one without fold f."""
        if self._fold_of_user is None:
            return np.zeros(len(rows), dtype=np.int64)
        fold = self._fold_of_user[self._dataset.users_of(rows)]
        return np.where(np.isin(rows, self._dataset.rows("train")), fold + 1, 0)


def _teacher(checkpoint: Checkpoint) -> "Teacher":
    from recsys.teachers.teacher import Teacher

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
    text = getattr(teacher, "text", None)
    aside = writer.finalise(plan, meta, item_embeddings, text, devices=gpus or cpus, splits=splits)
    TeacherSignals.load(settings.layout.signals, dataset)
    return meta, aside


@contextmanager
def _progress(total: int) -> Iterator[Any]:
    """Print rows, rows and tokens a second and the time left, at least every five seconds."""
    begun = time.perf_counter()
    done, first, since = 0, 0, begun  # the rate counts from the first shard: before it the actors were starting
    read = first_read = 0
    closed = threading.Event()

    def line() -> None:
        now = time.perf_counter()
        rate = (done - first) / (now - since)
        tokens = (read - first_read) / (now - since)
        left = f"{now - begun:.0f} s"
        if rate:
            left = f"{rate:,.0f} rows/s, {tokens:,.0f} tokens/s, {(total - done) / rate:.0f} s left"
        print(f"signals: {done:,} of {total:,} rows, {left}", flush=True)

    def tick() -> None:
        while not closed.wait(5):
            line()

    def advance(rows: int, tokens: int) -> None:
        nonlocal done, read, first, first_read, since
        done, read = done + rows, read + tokens
        if not first:
            first, first_read, since = rows, tokens, time.perf_counter()

    ticker = threading.Thread(target=tick, daemon=True)
    ticker.start()
    try:
        yield advance
    finally:
        closed.set()
        ticker.join()
    line()


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
