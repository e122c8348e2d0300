"""Recommendations for every user, as a table of Parquet files.

    <storage>/<name>/recommendations/<model>/part-00000.parquet …     (`recsys.serving.everyone.SCHEMA`)

The users are cut into shards. A shard is written whole or not at all into a work directory beside the table whose name
carries the key of the work, so a killed run goes on where it was, and shards of another checkpoint, other users or
other settings are never taken for its own. The table takes the place of an older one once it is complete.
"""

import hashlib
import io
import re
import time
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from recsys import storage
from recsys.config import digest, key_values, to_dict
from recsys.errors import UserError
from recsys.names import require_name
from recsys.serving.config import RecommendationsConfig
from recsys.settings import Settings
from recsys.signals.writer import ShardPlan
from recsys.stages.artefacts import alone, is_current, require, start_run
from recsys.stages.executor import Executor
from recsys.stages.shards import Counts, ShardedWork

_PART = "part-{:05d}.parquet"
_USERS = "users.parquet"


@dataclass(frozen=True)
class RecommendingPass(ShardedWork):
    """The work, small enough to travel to every worker.

    Attributes:
        model: URI of the checkpoint, whose hash is `checkpoint`.
        dataset: URI of the prepared dataset whose users are meant; "" where they are listed in `work`.
        users: how many there are.
        work: URI of the work directory.
    """

    section: ClassVar[str] = "recommendations"
    model: str
    checkpoint: str
    dataset: str
    users: int
    work: str
    config: RecommendationsConfig

    def open(self) -> "ShardRecommender":
        return ShardRecommender(self)

    @property
    def plan(self) -> ShardPlan:
        """Users by number, in shards."""
        return ShardPlan(np.arange(self.users), self.config.users_per_shard)

    def part(self, number: int) -> str:
        return storage.join(self.work, _PART.format(number))

    def missing(self, plan: ShardPlan) -> list[int]:
        return [number for number in range(len(plan)) if self._rows(number) != len(plan.shard(number))]

    def _rows(self, number: int) -> int | None:
        """Rows of a shard that is there and not cut short."""
        system, path = storage.filesystem(self.part(number))
        try:
            with system.open_input_file(path) as file:
                return pq.read_metadata(file).num_rows
        except (pa.ArrowInvalid, FileNotFoundError):
            return None


class ShardRecommender:
    """Recommends for the users of a shard, and writes it."""

    def __init__(self, work: RecommendingPass) -> None:
        import torch

        from recsys.data.prepared import PreparedDataset
        from recsys.serving.everyone import ListedUsers, StoredUsers, UserSource
        from recsys.serving.recommender import Recommender

        cpus, gpus = work.config.resources
        torch.set_num_threads(max(1, round(cpus)))
        self._work, self._plan = work, work.plan
        self._recommender = Recommender.load(work.model, "cuda" if gpus else "cpu")
        if self._recommender.checkpoint.hash != work.checkpoint:
            raise UserError(f"checkpoint {work.model} was replaced meanwhile; run recommend_all again")
        self._users: UserSource = (
            StoredUsers(PreparedDataset.load(work.dataset))
            if work.dataset
            else ListedUsers(storage.join(work.work, _USERS))
        )

    def rank(self, number: int) -> Counts:
        """Recommend and write a shard.

        Raises:
            UserError: k is larger than the catalogue.
        """
        from recsys.serving.everyone import recommend_table

        began = time.perf_counter()
        config, shard = self._work.config, self._plan.shard(number)
        table = recommend_table(
            self._recommender,
            self._users.read(int(shard[0]), int(shard[-1]) + 1),
            config.k,
            mask_seen=config.mask_seen,
            batch_size=config.batch_size,
        )
        storage.write_bytes(self._work.part(number), _parquet(table))
        return Counts(len(table), 0, 0, time.perf_counter() - began)


def place(settings: Settings, name: str, users: str | None = None) -> str:
    """URI of the table of a model; that of users listed in a file carries the file's name as well.

    Raises:
        UserError: the name is none.
    """
    folder = require_name(name, "the model")
    if users:
        stem = users.rpartition("/")[2].partition(".")[0]
        folder += "-for-" + re.sub(r"[^A-Za-z0-9_-]+", "-", stem)
    return storage.join(settings.layout.recommendations, folder)


@alone(lambda settings, _, name, users=None, **__: (place(settings, name, users), f"recommendations of {name}"))
def make(settings: Settings, executor: Executor, name: str, users: str | None = None, *, force: bool = False) -> None:
    """Recommend for the users of the prepared dataset, or of a file (`recsys.serving.everyone.read_users`), unless that
    is done.

    Args:
        name: of a student, of rules, or `teacher`.

    Raises:
        UserError: the model or the users are not there, or k is larger than the catalogue.
    """
    layout, config = settings.layout, settings.recommendations
    model, uri = layout.model(name), place(settings, name, users)
    checkpoint = require(model, f"checkpoint of {name!r}", "distill").content_hash
    listed = _read(users) if users else None
    if listed is None:
        asked = require(layout.dataset, "prepared dataset", "prepare_data").content_hash
        counts = storage.read_json(storage.join(layout.dataset, "dataset.json"))["counts"]
        dataset, count = layout.dataset, int(counts["users"])
    else:
        asked, dataset, count = hashlib.sha256(_parquet(listed)).hexdigest(), "", len(listed)
    key = digest({"checkpoint": checkpoint, "users": asked, "recommendations": key_values(config)})
    if not force and is_current(uri, key):
        print(f"recommendations: {uri} is up to date", flush=True)
        return
    parent, _, folder = uri.rpartition("/")
    work = RecommendingPass(model, checkpoint, dataset, count, f"{parent}/.{folder}-{key[:24]}", config)
    if force:
        storage.delete(work.work)
    plan = work.plan
    missing = work.missing(plan)
    if len(missing) < len(plan):
        print(f"recommendations: {len(plan) - len(missing)} of {len(plan)} shards are already there", flush=True)
    parameters = {"recommendations": to_dict(config), "users": count, "model": name}
    with start_run(
        settings,
        f"recommend_all {name}",
        params=parameters,
        tags={"checkpoint": model},
    ) as recorded:
        started = time.perf_counter()
        if missing:
            if listed is not None:
                storage.write_bytes(storage.join(work.work, _USERS), _parquet(listed, config.users_per_shard))
            executor.rank(work, plan, missing)
        seconds, done = time.perf_counter() - started, plan.count(missing)
        recorded.log_metrics({"users": done, "seconds": seconds, "users_per_second": done / seconds})
    _publish(work, uri, key, {"model": name, "checkpoint": checkpoint, "users": count, "k": config.k})
    print(f"recommendations: {done:,} users in {seconds:.1f} s, {config.k} items each; {uri}", flush=True)


def _read(path: str) -> pa.Table:
    from recsys.serving.everyone import read_users

    return read_users(path)


def _publish(work: RecommendingPass, uri: str, key: str, attributes: dict[str, object]) -> None:
    """Check the shards, seal them, put them in the place of the table, and remove other unfinished work on it."""
    assert not work.missing(work.plan), "every shard was written"
    system, folder = storage.filesystem(work.work)
    expected = {_PART.format(number) for number in range(len(work.plan))}
    for info in system.get_file_info(fs.FileSelector(folder, allow_not_found=True)):
        if info.base_name not in expected:
            system.delete_file(info.path)
    storage.seal(work.work, key=key, attributes=attributes)
    storage.move(work.work, uri)
    parent, _, name = folder.rpartition("/")
    other = re.compile(re.escape(re.sub(r"[0-9a-f]{24}$", "", name)) + "[0-9a-f]{24}")
    for info in system.get_file_info(fs.FileSelector(parent)):
        if info.type == fs.FileType.Directory and other.fullmatch(info.base_name):
            system.delete_dir(info.path)


def _parquet(table: pa.Table, rows: int | None = None) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, row_group_size=rows)
    return buffer.getvalue()
