"""Turn an interaction log and a catalogue into a PreparedDataset, as a Ray Data job.

    python -m ray_jobs.prepare_data                                    # MovieLens 100K, fetched
    python -m ray_jobs.prepare_data --config my.yaml
    python -m ray_jobs.prepare_data data.source=table data.path=log.tsv.gz data.items_path=items.tsv.gz name=shop
    ray job submit --working-dir . -- python -m ray_jobs.prepare_data --config my.yaml data.protocol=global_time

What happens, and where:

1. The log is cut into parts of 32 MB at line breaks, and Ray Data parses them in parallel. A row that cannot be parsed
   is carried along as a problem; before anything is written the problems are counted and the first is shown.
2. The rows are shuffled by a hash of the user, so that every user lies in one partition. Small data is one partition
   and is not shuffled at all.
3. The k-core filter runs over the partitions, pass by pass: only item counts travel.
4. Each partition orders its sequences; the driver joins them, splits them, and writes the dataset whole or not at all.

The steps are plain functions of `recsys.data`, and `recsys.data.prepare.prepare` runs them in one process too: the
fingerprint is the same. A second run with the same configuration and inputs does nothing.
"""

import argparse
import datetime
import json
import logging
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from ray_jobs import cli, runtime
from ray_jobs.settings import Settings
from recsys import tracking
from recsys.config import to_dict
from recsys.data import partition
from recsys.data.download import located
from recsys.data.prepare import Step, input_key, prepare
from recsys.data.prepared import PreparedDataset
from recsys.data.readers.log import PART_BYTES, InteractionLog, with_content

PARTITION_BYTES = 4 * PART_BYTES


def key(settings: Settings) -> str:
    """Digest of the data section and of the content of the input files."""
    return input_key(settings.data, settings.name)


def run(settings: Settings, *, force: bool = False) -> PreparedDataset:
    """Prepare the dataset at `settings.layout.dataset`, unless it is there already.

    Raises:
        UserError: the input cannot be found, fetched or parsed; nothing is written then.
    """
    uri, work_key = settings.layout.dataset, key(settings)
    if not force and cli.is_current(uri, work_key):
        dataset = PreparedDataset.load(uri)
        say(f"dataset {uri} is up to date")
        for line in describe(dataset):
            say(line)
        return dataset
    started = time.monotonic()
    config = located(settings.data, report=say)
    runtime.connect()
    params = {"data": to_dict(settings.data)}
    with tracking.start_run(
        settings.tracking, settings.layout.mlflow, settings.name, "prepare_data", params=params, tags={"dataset": uri}
    ) as tracked:
        dataset = prepare(config, settings.name, read=RayPartitions.read, report=say)
        dataset.write(uri, key=work_key)
        tracked.log_metrics({**dataset.facts, "seconds": time.monotonic() - started})
        tracked.set_tags({"fingerprint": dataset.fingerprint, "titles_hash": dataset.titles_hash})
        with tempfile.TemporaryDirectory() as folder:
            description = Path(folder) / "dataset.json"
            description.write_text(json.dumps(dataset.describe(), indent=2) + "\n")
            tracked.log_artifact(description)
    for line in describe(dataset):
        say(line)
    say(f"dataset written to {uri} in {time.monotonic() - started:.1f} s")
    return dataset


@dataclass(frozen=True)
class RayPartitions:
    """Partitions as blocks of a Ray dataset that lies in the object store (spilled to disk beyond it)."""

    dataset: Any

    @classmethod
    def read(cls, log: InteractionLog, partition_bytes: int = PARTITION_BYTES) -> "RayPartitions":
        """Parse in parallel, then bring all rows of a user together."""
        import ray
        import ray.data  # sets up its loggers; what is set before is lost

        logging.getLogger("ray.data").setLevel(logging.WARNING)
        logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)
        context = ray.data.DataContext.get_current().copy()
        # Progress is what the job prints. A block is a partition: it must not be cut in two for its size.
        context.enable_progress_bars = False
        context.target_max_block_size = None
        parts = with_content(log.parts())
        partitions = max(1, -(-sum(part.size for part in parts) // partition_bytes))
        say(f"reading {len(parts)} part(s) of the log into {partitions} partition(s)")
        parse = partial(_parse, log=ray.put(log), parts=ray.put(parts), partitions=partitions)
        with ray.data.DataContext.current(context):
            numbers = ray.data.range(len(parts), override_num_blocks=len(parts))
            parsed = numbers.map_batches(parse, batch_size=None, batch_format="pyarrow").materialize()
            if partitions == 1:
                return cls(parsed.repartition(1).materialize())
            return cls(parsed.repartition(partitions, keys=["bucket"]).materialize())

    def transform(self, step: Step) -> "RayPartitions":
        return RayPartitions(self._map(step).materialize())

    def collect(self, step: Step) -> Iterator[pa.Table]:
        import ray

        for reference in self._map(step).to_arrow_refs():
            yield ray.get(reference)

    def _map(self, step: Step) -> Any:
        # The step carries arrays over all items: they go to the object store once, not with every task.
        import ray

        return self.dataset.map_batches(_call, fn_args=(ray.put(step),), batch_size=None, batch_format="pyarrow")


def _parse(numbers: pa.Table, log: Any, parts: Any, partitions: int) -> Iterator[pa.Table]:
    import ray

    log, parts = ray.get([log, parts])
    for number in numbers["id"].to_pylist():
        for table in log.parse(parts[number]):
            yield table.append_column("bucket", pa.array(partition.bucket_of(table["user_id"], partitions)))


def _call(table: pa.Table, step: Any) -> pa.Table:
    import ray

    return ray.get(step)(table)


def describe(dataset: PreparedDataset) -> list[str]:
    """What a person wants to know of a dataset, as lines."""
    facts = dataset.facts
    first, last = (_day(facts[f"{end}_timestamp"]) for end in ("first", "last"))
    return [
        f"dataset {dataset.name}: {facts['users']:,} users, {facts['items']:,} items, "
        f"{facts['interactions']:,} interactions, density {facts['density']:.3%}",
        f"  protocol {dataset.protocol}: {facts['train_rows']:,} training, {facts['valid_rows']:,} validation, "
        f"{facts['test_rows']:,} test rows",
        f"  median sequence {facts['median_sequence']:g}, median test history {facts['median_history']:g} "
        f"(at most {dataset.max_history}), titles missing {facts['missing_titles']:.2%}, time {first} to {last}",
        f"  fingerprint {dataset.fingerprint[:12]}",
    ]


def _day(timestamp: int) -> str:
    """A date where the number looks like seconds since 1970 (1980 to 2100), else the number."""
    if 315_532_800 <= timestamp < 4_102_444_800:
        return datetime.datetime.fromtimestamp(timestamp, datetime.UTC).date().isoformat()
    return str(timestamp)


def say(line: str) -> None:
    print(line, flush=True)


def main() -> None:
    def body(settings: Settings, args: argparse.Namespace) -> None:
        run(settings, force=args.force)

    cli.run_job(__doc__, body)


if __name__ == "__main__":
    main()
