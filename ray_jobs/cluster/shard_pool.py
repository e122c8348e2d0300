"""Work in shards, a teacher's pass for one, done by a pool of actors of Ray Data."""

import logging
from collections.abc import Sequence
from typing import Any

import ray
import ray.data

from ray_jobs.cluster import runtime
from recsys.errors import UserError
from recsys.signals.writer import ShardPlan
from recsys.stages.shards import Counts, ShardedWork


def check_room(work: ShardedWork) -> None:
    """Raise a `UserError` where not one actor of the pool will ever find a place; a pool makes do with fewer."""
    cpus, gpus = work.config.resources
    lower = " or ".join(f"{work.section}.{name}" for name in work.asks)
    runtime.check_room("an actor of the pass", cpus=cpus, gpus=gpus, lower=lower)


def rank_until_whole(work: ShardedWork, plan: ShardPlan, missing: Sequence[int]) -> None:
    """Ray starts a killed actor again by itself; where it cannot, new actors take what is left, as long as each pool
    gets on."""
    while missing:
        try:
            _rank_shards(work, plan, missing)
        except (ray.exceptions.RayActorError, ray.exceptions.WorkerCrashedError) as error:
            before, missing = missing, work.missing(plan)
            if len(missing) == len(before):
                raise
            reason = str(error).splitlines()[0]
            print(f"{work.section}: {reason} {len(missing)} of {len(plan)} shards are left", flush=True)
        else:
            return


def _rank_shards(work: ShardedWork, plan: ShardPlan, missing: Sequence[int]) -> None:
    config = work.config
    # Progress is what this job prints; Ray Data's own bars and plans would only hide it.
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)
    actors = min(config.actors, len(missing))
    most = min(config.max_actors or config.actors, len(missing))
    cpus, gpus = config.resources
    pool = str(actors) if most == actors else f"{actors} to {most}"
    print(f"{work.section}: {plan.count(missing):,} rows in {len(missing)} shards on {pool} actors", flush=True)
    shards = ray.data.from_items([{"shard": n} for n in missing], override_num_blocks=len(missing))
    ranked = shards.map_batches(
        RankShard,
        fn_constructor_args=(work,),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(min_size=actors, max_size=most),
        num_cpus=cpus,
        num_gpus=gpus,
    )
    with work.progress(plan, missing, workers=actors) as advance:
        for row in ranked.iter_rows():
            if row["error"]:
                raise UserError(row["error"])  # leaving the loop ends the actors
            advance(Counts(int(row["rows"]), int(row["aside"]), int(row["tokens"]), float(row["seconds"])))


class RankShard:
    """One actor of the pool."""

    def __init__(self, work: ShardedWork) -> None:
        self._ranker = work.open()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Shard numbers → their `Counts`, column by column, or the error that ends the pass."""
        counts, errors = [], []
        for number in batch["shard"].tolist():
            try:
                counts.append(self._ranker.rank(number))
                errors.append("")
            except UserError as error:  # as a value, because Ray Data would bury it under its own
                counts.append(Counts(0, 0, 0, 0.0))
                errors.append(str(error))
        return {
            "rows": [each.rows for each in counts],
            "aside": [each.aside for each in counts],
            "tokens": [each.tokens for each in counts],
            "seconds": [each.seconds for each in counts],
            "error": errors,
        }
