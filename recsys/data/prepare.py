"""From an opened source to a PreparedDataset, written once for one process and for a cluster.

`prepare` speaks to the log only through `Partitions`: here they are tables in this process, on a cluster blocks of a
Ray dataset. Either way the same functions see the same rows, so the fingerprint is the same.

Memory of the caller: 12 bytes per interaction for the finished sequences (briefly 40), the ids of users and items, and
the titles; a partition takes about 100 bytes per interaction of its own where it lies.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys.config import digest, key_values
from recsys.data import partition
from recsys.data.cleaning import clean_catalogue
from recsys.data.config import DataConfig
from recsys.data.download import GROUPLENS
from recsys.data.prepared import Catalogue, PreparedDataset
from recsys.data.readers import Source, describe_inputs, open_source
from recsys.data.readers.log import LOG_SCHEMA, UNREADABLE, InteractionLog
from recsys.data.readers.times import SECOND
from recsys.data.splits import SPLITS, every_interaction, find_seen_by_training, global_time, leave_one_out
from recsys.errors import UserError

_VERSION = 2  # of what preparation does: raise it when equal inputs would give another dataset

Step = Callable[[pa.Table], pa.Table]


class Partitions(Protocol):
    """The parsed log, all rows of a user in one partition."""

    def transform(self, step: Step) -> "Partitions":
        """Partitions of what `step` makes of each."""
        ...

    def collect(self, step: Step) -> Iterator[pa.Table]:
        """What `step` makes of each partition, brought here."""
        ...


Read = Callable[[InteractionLog], Partitions]
"""Parses a log into partitions."""


@dataclass(frozen=True)
class LocalPartitions:
    """Everything in this process, one partition after another."""

    tables: list[pa.Table]

    @classmethod
    def read(cls, log: InteractionLog) -> "LocalPartitions":
        tables = [table for part in log.parts() for table in log.parse(part)]
        return cls([pa.concat_tables(tables) if tables else LOG_SCHEMA.empty_table()])

    def transform(self, step: Step) -> "LocalPartitions":
        return LocalPartitions([step(table) for table in self.tables])

    def collect(self, step: Step) -> Iterator[pa.Table]:
        return (step(table) for table in self.tables)


def input_key(config: DataConfig, name: str) -> str:
    """Digest of the configuration and of what the input files hold, wherever they lie."""
    # Whatever way MovieLens 100K is fetched, its content is known beforehand.
    fetched = config.path is None and config.source == "ml-100k"
    inputs = [{"sha256": GROUPLENS.sha256}] if fetched else describe_inputs(config)
    return digest({"version": _VERSION, "name": name, "config": key_values(config), "inputs": inputs})


def prepare(
    config: DataConfig,
    name: str,
    *,
    read: Read = LocalPartitions.read,
    report: Callable[[str], Any] = print,
) -> PreparedDataset:
    """Read, clean, filter, order and split.

    Users and items are numbered by their first appearance in the source; a user's interactions are ordered by time, and
    of equal times by their place in the source.

    Args:
        config: with `path` set (`recsys.data.download` finds the demo's).
        read: parses a log into partitions.
        report: takes one line of progress.

    Raises:
        UserError: missing file or column, too many unreadable rows, a catalogue of other ids than the log's, or not
            enough left to learn from.
    """
    source = open_source(config)
    if config.protocol == "global_time" and config.columns.timestamp is None:
        raise UserError("data.protocol=global_time needs times; name their column in data.columns.timestamp")
    parsed = read(source.log)
    for remark in (*source.log.remarks(), *source.remarks):
        report(remark)
    items, only_dated = _survey(parsed, source, config, report)
    titles = _titles(items, source, config, report)
    alive = np.ones(len(items), dtype=bool)
    if config.protocol == "global_time":
        alive = pc.greater(pc.utf8_length(titles), 1).to_numpy(zero_copy_only=False)
        report(f"global_time: {int((~alive).sum()):,} items with a title of at most one character dropped")
    encoded = parsed.transform(partial(partition.encode, item_ids=items, only_dated=only_dated))
    alive = _k_core(encoded, alive, config, report)
    step = partial(partition.sequences, alive=alive, min_user=config.min_user_interactions)
    dataset = _assemble(_join(encoded.collect(step), partition.SEQUENCES_SCHEMA), items, titles, alive, config, name)
    train, valid, test = (len(dataset.rows(split)) for split in SPLITS)
    if not (train and valid and test):
        raise UserError(
            f"{len(dataset.items):,} interactions of {dataset.num_users:,} users are left, which gives {train:,} "
            f"training, {valid:,} validation and {test:,} test rows, and each needs some: lower "
            "data.min_user_interactions and data.min_item_interactions, or give more data"
        )
    return dataset


def _survey(
    parsed: Partitions, source: Source, config: DataConfig, report: Callable[[str], Any]
) -> tuple[pa.Array, bool]:
    """Ids of the items of the log in the order of their first appearance, and whether rows without a date are to be
    left out; refuses too many unreadable rows."""
    found = _join(parsed.collect(partition.survey), partition.SURVEY_SCHEMA)
    bad = found.filter(pc.is_null(found["item_id"])).sort_by("first_row")
    found = found.filter(pc.is_valid(found["item_id"]))
    undated = pc.equal(bad["problem"], partition.UNDATED)
    few = 0 < (pc.sum(bad.filter(undated)["count"]).as_py() or 0) < (pc.sum(found["count"]).as_py() or 0)
    only_dated = few and config.time_unit == "auto"
    if not only_dated:
        bad = bad.filter(pc.invert(undated))
    count = source.bad_items[0] + (pc.sum(bad["count"]).as_py() or 0)
    if count:
        if len(bad) and bad["first_row"][0].as_py() == UNREADABLE:
            raise UserError(bad["problem"][0].as_py())
        if len(bad):
            first = f"{source.log.where(bad['first_row'][0].as_py())} of the interactions ({bad['problem'][0].as_py()})"
        else:
            first = f"{source.bad_items[1]} of the items"
        rows = "1 row" if count == 1 else f"{count:,} rows"
        if count > config.max_bad_rows:
            raise UserError(
                f"{rows} cannot be parsed, the first is {first}; mend the data or raise data.max_bad_rows "
                f"(now {config.max_bad_rows})"
            )
        report(f"{rows} left out that cannot be parsed; the first is {first}")
    items = found.group_by("item_id").aggregate([("first_row", "min")])
    if not len(items):
        raise UserError(f"{config.path} holds no interactions")
    return items.sort_by("first_row_min")["item_id"].combine_chunks(), only_dated


def _join(tables: Iterator[pa.Table], schema: pa.Schema) -> pa.Table:
    """All tables as one; those without rows may have lost their columns on the way."""
    return pa.concat_tables([schema.empty_table(), *(table.cast(schema) for table in tables if len(table))])


def _titles(items: pa.Array, source: Source, config: DataConfig, report: Callable[[str], Any]) -> pa.Array:
    """The title of each item, "" where there is none; refuses a catalogue that holds too few of them."""
    if source.items is None:
        return pa.array([""] * len(items), pa.string())
    catalogue, repeats = clean_catalogue(source.items, source.placeholders)
    if repeats:
        report(f"{repeats:,} repeated catalogue rows left out")
    ids = catalogue["item_id"].combine_chunks()
    at = pc.index_in(items, value_set=ids)
    if at.null_count:
        _require_matched(items, ids, at, config, report)
    return pc.fill_null(catalogue["title"].combine_chunks().take(at), "")


def _require_matched(
    items: pa.Array, ids: pa.Array, at: pa.Array, config: DataConfig, report: Callable[[str], Any]
) -> None:
    """Say how many items of the log the catalogue lacks; refuse where there are more than is asked for."""
    missing = f"{at.null_count:,} of the log's {len(items):,} items are not in the catalogue"
    lacking = items.filter(pc.is_null(at))[0].as_py()
    if 1 - at.null_count / len(items) >= config.min_matched:
        report(f"{missing}, such as {lacking!r}")
        return
    idle = ids.filter(pc.invert(pc.is_in(ids, value_set=items)))
    other = f"while the catalogue has ids such as {idle[0].as_py()!r}" if len(idle) else "which has no others"
    raise UserError(
        f"{missing}, such as {lacking!r}, {other}: write ids alike in both, or lower data.min_matched (now "
        f"{config.min_matched:g})"
    )


def _k_core(encoded: Partitions, alive: np.ndarray, config: DataConfig, report: Callable[[str], Any]) -> np.ndarray:
    """The items that are left when users and items below the minimum are dropped until nothing changes, [N] bool.

    Each pass sends the [N] bools out and brings item counts back: N × P × 12 bytes at most.
    """
    step = 0
    while True:
        step += 1
        counts = np.zeros(len(alive), dtype=np.int64)
        for table in encoded.collect(
            partial(partition.core_counts, alive=alive, min_user=config.min_user_interactions)
        ):
            if len(table):
                counts[table["item"].to_numpy()] += table["count"].to_numpy()
        kept = counts >= config.min_item_interactions
        report(f"k-core pass {step}: {counts.sum():,} interactions of {int(kept.sum()):,} items")
        if (kept == (counts > 0)).all():
            return kept
        alive = kept


def _assemble(
    table: pa.Table, item_ids: pa.Array, titles: pa.Array, alive: np.ndarray, config: DataConfig, name: str
) -> PreparedDataset:
    order = np.argsort(table["first_row"].to_numpy(), kind="stable")
    table = table.take(order).combine_chunks()
    lists = table["items"].combine_chunks()
    offsets = np.concatenate([[0], np.cumsum(lists.value_lengths().to_numpy())]).astype(np.int64)
    number = np.cumsum(alive, dtype=np.int32)  # items are 1..N in the order of their first appearance
    items = number[lists.flatten().to_numpy()]
    instants = table["timestamps"].combine_chunks().flatten().to_numpy().astype(np.int64)
    if config.protocol == "leave_one_out":
        rows = leave_one_out(offsets)
    else:
        rows = global_time(offsets, instants, every_prefix=config.every_prefix)
        if config.train_rows != "rule":
            rows["train"] = every_interaction(offsets, instants, rows, unseen_users=config.train_rows == "all")
    timestamps = instants // SECOND  # order is decided: what follows counts in seconds
    seen = find_seen_by_training(offsets, rows["train"])
    catalogue = Catalogue(
        item_ids=["", *item_ids.filter(pa.array(alive)).to_pylist()],
        titles=["", *titles.filter(pa.array(alive)).to_pylist()],
        train_counts=np.bincount(items[seen], minlength=int(alive.sum()) + 1).astype(np.int64),
    )
    user_ids = table["user_id"].to_pylist()
    return PreparedDataset(
        name=name,
        source={"format": config.source, "files": describe_inputs(config)},
        protocol=config.protocol,
        max_history=config.max_history,
        catalogue=catalogue,
        user_ids=user_ids,
        offsets=offsets,
        items=items,
        timestamps=timestamps,
        split_rows=rows,
        facts=_facts(offsets, timestamps, catalogue, rows, config),
    )


def _facts(
    offsets: np.ndarray,
    timestamps: np.ndarray,
    catalogue: Catalogue,
    rows: Mapping[Any, np.ndarray],
    config: DataConfig,
) -> dict[str, Any]:
    """What a person wants to know of the data; plain JSON values."""
    users, items, interactions = len(offsets) - 1, len(catalogue), int(offsets[-1])
    test = rows["test"]
    starts = offsets[np.searchsorted(offsets, test, side="right") - 1]
    lengths = np.minimum(test - starts, config.max_history)
    return {
        "users": users,
        "items": items,
        "interactions": interactions,
        "density": interactions / (users * items) if users and items else 0.0,
        **{f"{split}_rows": len(rows[split]) for split in SPLITS},
        "median_sequence": float(np.median(np.diff(offsets))) if users else 0.0,
        "median_history": float(np.median(lengths)) if len(test) else 0.0,
        "missing_titles": sum(not title for title in catalogue.titles[1:]) / max(items, 1),
        "first_timestamp": int(timestamps.min()) if interactions else 0,
        "last_timestamp": int(timestamps.max()) if interactions else 0,
    }
