"""Partitions of a log as blocks of a Ray dataset.

1. The log is cut into parts of 32 MB at line breaks, and Ray Data parses them in parallel.
2. The rows are shuffled by a hash of the user, so that every user lies in one partition. Small data is one partition
   and is not shuffled at all.
3. What `recsys.data.prepare` does with a partition runs where the block lies.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa

from recsys.data import partition
from recsys.data.prepare import Step
from recsys.data.readers.log import PART_BYTES, InteractionLog, with_content
from recsys.stages.executor import say

PARTITION_BYTES = 4 * PART_BYTES


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
