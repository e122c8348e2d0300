"""The shards of a teacher pass, ranked by a pool of actors of Ray Data."""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import ray
import ray.data

from ray_jobs import estimate_pass
from ray_jobs.settings import Settings
from recsys.data.prepared import PreparedDataset
from recsys.errors import UserError
from recsys.signals.config import SignalsConfig
from recsys.signals.states import StatesMeta
from recsys.signals.writer import ShardPlan, SignalsWriter

if TYPE_CHECKING:
    from torch import Tensor

_HOPELESS = 1000  # rows without one finite prediction; a pass that goes on from such shards is let be


def plan_shards(config: SignalsConfig, dataset: PreparedDataset) -> ShardPlan:
    assert config.rows_per_shard is not None, "filled in by `covered`"
    return ShardPlan.of(dataset, config.splits, config.rows_per_shard, train_rows=config.train_rows)


def rank_until_whole(
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
        from recsys.inference.replica import open_replica

        self._states = states
        self._dataset = PreparedDataset.load(dataset_uri)
        self._replica = open_replica(dataset_uri, config, self._dataset)
        self._plan = plan_shards(config, self._dataset)
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
        from recsys.signals.rankings import joined

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
