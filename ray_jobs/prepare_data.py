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

The steps are plain functions of `recsys.data` (`ray_jobs.cluster.partitions` puts them on Ray), and run in one process
too: the fingerprint is the same. A second run with the same configuration and inputs does nothing.
"""

from ray_jobs import cli
from ray_jobs.on_ray import OnRay
from recsys.stages import prepare


def main() -> None:
    cli.run_job(__doc__, lambda settings, args: prepare.make(settings, OnRay(), force=args.force))


if __name__ == "__main__":
    main()
