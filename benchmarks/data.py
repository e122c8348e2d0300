"""Data preparation against the plain procedure of published code, which expands every prefix with pandas.

    python benchmarks/data.py [--quick] [--minutes N] [--rows 1000000 10000000]

Both sides read the same made-up log (a TSV of Zipf-like items, users of 5 to 200 interactions), filter to a 5-core,
sort, split by leave-one-out and write Parquet. Each side runs in a process of its own, and must find the same rows.
pandas is given at most a million rows: for more its time and memory are scaled up from there in proportion, which is
kind to it. `ray_rows_per_second` is the same preparation as a Ray Data job, start of a local Ray included.

Keys, each by number of rows: `rows_per_second`, `speedup_vs_pandas`, `peak_gb`, `pandas_peak_gb`,
`ray_rows_per_second`.
"""

import argparse
import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import harness

PANDAS_ROWS = 1_000_000
MAX_HISTORY = 50
Counts = dict[str, int]


def make_log(path: str, rows: int) -> None:
    """Write a log with `rows` interactions, in random order of time across users."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.csv

    random = np.random.default_rng(0)
    lengths = np.minimum(5 + random.geometric(1 / 25, size=rows // 10), 200)
    lengths = lengths[: np.searchsorted(np.cumsum(lengths), rows) + 1]
    users = random.permutation(np.repeat(np.arange(len(lengths)), lengths)[:rows])
    catalogue = max(rows // 200, 100)
    # Item ranks with density ∝ 1/rank, as most catalogues have them.
    items = np.exp(random.random(rows) * np.log(catalogue)).astype(np.int64)
    table = pa.table(
        {
            "user_id": users,
            "item_id": pa.array(items, pa.int64()),
            "timestamp": 1_500_000_000 + random.integers(0, 10**8, rows),
        }
    )
    options = pyarrow.csv.WriteOptions(delimiter="\t", quoting_style="none", quoting_header="none")
    pyarrow.csv.write_csv(table, path, options)


def prepare_in_process(path: str, folder: str) -> Counts:
    """`recsys.data` in one process."""
    from recsys.data.config import DataConfig
    from recsys.data.prepare import prepare
    from recsys.data.splits import SPLITS

    config = DataConfig(source="table", path=path, max_history=MAX_HISTORY)
    dataset = prepare(config, "benchmark", report=harness.progress)
    dataset.write(f"{folder}/ours")
    return {split: len(dataset.rows(split)) for split in SPLITS}


def prepare_on_ray(path: str, folder: str) -> Counts:
    """`ray_jobs.prepare_data` on a Ray of its own."""
    import ray

    from ray_jobs.on_ray import OnRay
    from recsys.data.config import DataConfig
    from recsys.data.splits import SPLITS
    from recsys.settings import Settings
    from recsys.stages import prepare as stage
    from recsys.tracking import TrackingConfig

    settings = Settings(
        name="benchmark",
        storage=folder,
        data=DataConfig(source="table", path=path, max_history=MAX_HISTORY),
        tracking=TrackingConfig(uri="none"),
    )
    dataset = stage.make(settings, OnRay())
    ray.shutdown()
    return {split: len(dataset.rows(split)) for split in SPLITS}


def prepare_with_pandas(path: str, folder: str) -> Counts:
    """The plain procedure: filter, sort, then one row with a copied history for every prefix."""
    import pandas as pd

    log = pd.read_csv(path, sep="\t", dtype={"user_id": str, "item_id": str})
    while True:
        before = len(log)
        log = log[log.groupby("item_id")["item_id"].transform("size") >= 5]
        log = log[log.groupby("user_id")["user_id"].transform("size") >= 5]
        if len(log) == before:
            break
    log = log.sort_values(["user_id", "timestamp"], kind="stable")
    log["item"] = pd.factorize(log["item_id"])[0] + 1
    rows: dict[str, list[Any]] = {"train": [], "valid": [], "test": []}
    for user, items in log.groupby("user_id")["item"].apply(list).items():
        for i in range(1, len(items)):
            split = "test" if i == len(items) - 1 else "valid" if i == len(items) - 2 else "train"
            rows[split].append((user, items[max(0, i - MAX_HISTORY) : i], items[i]))
    for split, samples in rows.items():
        pd.DataFrame(samples, columns=["user", "history", "target"]).to_parquet(f"{folder}/{split}.parquet")
    return {split: len(samples) for split, samples in rows.items()}


def _import_libraries() -> None:
    """What starting Python costs is not what is measured."""
    import pandas  # noqa: F401
    import pyarrow.parquet  # noqa: F401

    import recsys.data.prepare  # noqa: F401


def measure(body: Callable[[str, str], Counts], path: str) -> tuple[float, float, Counts]:
    """Seconds, peak GB and row counts of `body` in a fresh process."""
    context = multiprocessing.get_context("spawn")
    with harness.scratch() as folder, ProcessPoolExecutor(1, mp_context=context) as pool:
        pool.submit(_import_libraries).result()
        with harness.PeakMemory() as memory:
            started = time.perf_counter()
            counts = pool.submit(body, path, folder).result()
            seconds = time.perf_counter() - started
    harness.progress(f"  {body.__name__}: {seconds:.1f} s, {memory.gb:.2f} GB, {counts}")
    return seconds, memory.gb, counts


def main(options: harness.Options) -> dict[str, Any]:
    sizes = [20_000] if options.quick else options.args.rows
    keys = ("rows_per_second", "speedup_vs_pandas", "peak_gb", "pandas_peak_gb", "ray_rows_per_second")
    figures: dict[str, Any] = {key: {} for key in keys}
    with harness.scratch() as folder:
        for rows in sizes:
            harness.progress(f"{rows:,} rows")
            path, size = f"{folder}/{rows}.tsv", str(rows)
            make_log(path, rows)
            seconds, gb, counts = measure(prepare_in_process, path)
            figures["rows_per_second"][size] = round(rows / seconds)
            figures["peak_gb"][size] = round(gb, 2)
            part = min(rows, PANDAS_ROWS)
            if part < rows:
                small = f"{folder}/{part}.tsv"
                if not Path(small).exists():
                    make_log(small, part)
                _, _, counts_part = measure(prepare_in_process, small)
            else:
                small, counts_part = path, counts
            seconds_pandas, gb_pandas, counts_pandas = measure(prepare_with_pandas, small)
            if counts_pandas != counts_part:
                raise AssertionError(f"the two sides differ: {counts_part} and {counts_pandas}")
            figures["speedup_vs_pandas"][size] = round(seconds_pandas * (rows / part) / seconds, 2)
            figures["pandas_peak_gb"][size] = round(gb_pandas * (rows / part), 2)
            if not options.quick and options.seconds_left > 60 + 3 * seconds:
                seconds_ray, _, counts_ray = measure(prepare_on_ray, path)
                if counts_ray != counts:
                    raise AssertionError(f"the Ray job differs: {counts} and {counts_ray}")
                figures["ray_rows_per_second"][size] = round(rows / seconds_ray)
    return figures


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 10_000_000], help="sizes of the log")


if __name__ == "__main__":
    harness.main(__doc__, main, arguments=arguments)
