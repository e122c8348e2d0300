"""The cost curve: seconds and peak memory of every stage, for logs of 10^5, 10^6 and 10^7 interactions.

    python benchmarks/scale.py [--quick] [--minutes N] [--rows 100000 1000000 10000000] [--share-seconds 60]

The log is made up, and skewed: users have a log-normal number of interactions (median 30, at least 5); half of the
interactions fall on all items alike, five on each, the others follow Zipf's law; there is an item for every ten
interactions, a million for 10^7. Items are drawn independently, so that counts meet more distinct pairs than in a log
of people: the dear case.

Stages: `preparation` (a TSV in order of time, cleaned, sorted, split, written), `rules` (sequential rules with the
constants that they have by default, nothing tuned, saved), `training` (an epoch of a SASRec 64 wide by sampled softmax,
1,024 draws a step, saved), `evaluation` (that SASRec over all test rows, full ranking). Each runs in a process of its
own, from reading its input to having written its result. An epoch and an evaluation end after `--share-seconds`; of
those that were not through by then the share that was measured is told (`share`), and `seconds` are scaled up from it.

Keys, by stage and number of interactions: `seconds`; `core_seconds`, time on a core, all threads together, which other
work on the machine changes little; `peak_gb`, the most that was resident (VmHWM), and `own_gb`, that beyond what the
process had once its libraries were loaded; `share`; for a stage that asks for more than `limit_gb` of memory nothing
but `over_limit`. `exponent` by stage, of time on a core and of own memory: b of a · interactions^b, by least squares
between the logarithms. `python benchmarks --tables` draws table and picture (docs/scaling.md).
"""

import argparse
import multiprocessing
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import ROOT, Options, main, progress, scratch
from speed import read

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

    Clocks = np.ndarray

STAGES = ("preparation", "rules", "training", "evaluation")
ROWS = (100_000, 1_000_000, 10_000_000)
PER_ITEM = 10  # interactions
BATCH, EVALUATED, NEGATIVES, WIDTH = 128, 256, 1024, 64
BOUND_GB, LIMIT_GB = 10, 12  # what a stage should keep to; what it is refused, lest it take the machine down
PICTURE = ROOT.parent / "docs" / "cost-curve.png"
_COLOURS = ("#3f83d1", "#d2691e", "#2f9270", "#9a6dd7")


def body(options: Options) -> dict[str, Any]:
    sizes = [5_000, 20_000] if options.quick else sorted(options.args.rows)
    seconds = 1.0 if options.quick else options.args.share_seconds
    stages: dict[str, dict[str, Any]] = {stage: {} for stage in STAGES}
    load = os.getloadavg()[0]
    for rows in sizes:
        with scratch() as folder:
            make_log(f"{folder}/log.tsv", rows)
            for stage in STAGES:
                if options.seconds_left <= 0:
                    progress(f"the time is up before {stage} of {rows:,} interactions")
                    break
                found = measure(stage, folder, seconds)
                stages[stage][str(rows)] = found
                progress(f"{rows:,} interactions, {stage}: " + ", ".join(f"{k} {v}" for k, v in found.items()))
    return {
        **stages,
        "exponent": {stage: fit_exponents(found) for stage, found in stages.items()},
        "bound_gb": BOUND_GB,
        "limit_gb": LIMIT_GB,
        "threads": len(os.sched_getaffinity(0)),
        "load_at_start": round(load, 2),
        "load_at_end": round(os.getloadavg()[0], 2),
    }


def make_log(path: str, rows: int) -> None:
    """Write a log of about so many interactions, in order of time."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.csv

    random = np.random.default_rng(0)
    lengths = np.clip(random.lognormal(np.log(30), 1, rows // 10), 5, 2000).astype(np.int64)
    lengths = lengths[: np.searchsorted(np.cumsum(lengths), rows) + 1]
    rows = int(lengths.sum())
    items = rows // PER_ITEM
    # Ranks with density ∝ 1 / rank.
    popular = np.exp(random.random(rows - 5 * items) * np.log(items)).astype(np.int64) - 1
    table = pa.table(
        {
            "user_id": np.repeat(np.arange(len(lengths)), lengths)[random.permutation(rows)],
            "item_id": random.permutation(np.concatenate([np.repeat(np.arange(items), 5), popular])),
            "timestamp": 1_500_000_000 + np.sort(random.integers(0, 10**8, rows)),
        }
    )
    options = pyarrow.csv.WriteOptions(delimiter="\t", quoting_style="none", quoting_header="none")
    pyarrow.csv.write_csv(table, path, options)


def measure(stage: str, folder: str, share_seconds: float) -> dict[str, Any]:
    """What a stage takes, in a process of its own."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as child:
        return child.submit(run_stage, stage, folder, share_seconds).result()


def run_stage(stage: str, folder: str, share_seconds: float) -> dict[str, Any]:
    """In a process of its own."""
    import resource

    works: dict[str, Callable[[], Any]] = {
        "preparation": lambda: (prepare(folder), {}),
        "rules": lambda: count(folder),
        "training": lambda: train(folder, share_seconds),
        "evaluation": lambda: evaluate(folder, share_seconds),
    }
    _import_libraries()
    resource.setrlimit(resource.RLIMIT_DATA, (int(LIMIT_GB * 1e9), resource.RLIM_INFINITY))
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    base = read_memory("VmRSS")
    try:
        taken, facts = works[stage]()
    except (MemoryError, RuntimeError) as error:  # PyTorch's own is a RuntimeError
        if isinstance(error, RuntimeError) and "allocate memory" not in str(error):
            raise
        return {"over_limit": True}
    peak = read_memory("VmHWM")
    seconds, core = (round(float(each), 2) for each in taken)
    memory = {"peak_gb": round(peak, 3), "own_gb": round(peak - base, 3)}
    return {"seconds": seconds, "core_seconds": core, **memory, **facts}


def read_clocks() -> "Clocks":
    """[2]: seconds by the clock, and of this process on a core."""
    import numpy as np

    return np.array([time.perf_counter(), time.process_time()])


def read_memory(name: str) -> float:
    """GB of this process, as /proc says."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition(f"{name}:")[2].split()[0]) * 1024 / 1e9


def _import_libraries() -> None:
    """What starting Python costs is not what is measured."""
    import recsys.data.prepare
    import recsys.evaluation.ranking
    import recsys.rules.fit
    import recsys.students.build
    import recsys.students.sasrec
    import recsys.training.engine  # noqa: F401


def prepare(folder: str) -> "Clocks":
    from recsys.data.config import DataConfig
    from recsys.data.prepare import prepare

    started = read_clocks()
    config = DataConfig(source="table", path=f"{folder}/log.tsv")
    prepare(config, "scale", report=lambda _: None).write(f"{folder}/dataset")
    return read_clocks() - started


def count(folder: str) -> "tuple[Clocks, dict[str, Any]]":
    """Time, and how many rules there are."""
    from recsys.data.prepared import PreparedDataset
    from recsys.rules.config import RULES
    from recsys.rules.fit import fit_rules

    started = read_clocks()
    dataset = PreparedDataset.load(f"{folder}/dataset")
    fitted = fit_rules(dataset)[RULES]
    fitted.save(f"{folder}/rules", dataset)
    return read_clocks() - started, {"rules": fitted.model.config.rules}


def train(folder: str, limit: float) -> "tuple[Clocks, dict[str, Any]]":
    """Time of an epoch, reading the dataset and saving the model included, and the share of it that was done."""
    import numpy as np
    import torch

    from recsys.checkpoint import save_checkpoint
    from recsys.data.prepared import PreparedDataset
    from recsys.losses.config import RecommendationLossConfig
    from recsys.students.build import build_student
    from recsys.students.config import SASRecConfig
    from recsys.training.config import TrainingConfig
    from recsys.training.engine import build_engine

    started = read_clocks()
    dataset = PreparedDataset.load(f"{folder}/dataset")
    loss = RecommendationLossConfig(kind="sampled-softmax", negatives=NEGATIVES)
    objective = build_student(SASRecConfig(width=WIDTH), dataset, loss=loss)
    config = TrainingConfig(batch_size=BATCH)
    engine = build_engine(objective, config, torch.device("cpu"))
    batches = objective.batches(dataset, config, rank=0, world=1)
    steps, done, losses = sum(1 for _ in batches.epoch(0)), 0, []
    begun = read_clocks()
    for batch, total in batches.epoch(0):
        losses.append(float(engine.step(batch, total, config.learning_rate)["loss"]))
        done += 1
        if read_clocks()[0] - begun[0] > limit:
            break
    epoch = read_clocks() - begun
    saving = read_clocks()
    save_checkpoint(f"{folder}/student", objective.model, dataset)
    beside = begun - started + read_clocks() - saving
    facts = {"loss": round(float(np.mean(losses[-20:])), 3), "seconds_per_step": round(float(epoch[0]) / done, 4)}
    return beside + epoch * steps / done, {"share": round(done / steps, 4), "steps": steps, **facts}


def evaluate(folder: str, limit: float) -> "tuple[Clocks, dict[str, Any]]":
    """Time of ranking all test rows, reading dataset and model included, and the share of them that was ranked."""
    from recsys.checkpoint import load_checkpoint
    from recsys.data.prepared import PreparedDataset
    from recsys.evaluation.ranking import model_scorer, rank_targets

    started = read_clocks()
    dataset = PreparedDataset.load(f"{folder}/dataset")
    score = model_scorer(load_checkpoint(f"{folder}/student").model)
    rows = dataset.sample("test", 10**9, seed=0)
    size, done = 4 * EVALUATED, 0
    begun = read_clocks()
    for first in range(0, len(rows), size):
        part = rows[first : first + size]
        rank_targets(score, dataset, part, mask_seen=True, batch_size=EVALUATED)
        done += len(part)
        if read_clocks()[0] - begun[0] > limit:
            break
    ranking = read_clocks() - begun
    facts = {"share": round(done / len(rows), 4), "rows": len(rows), "items": dataset.num_items}
    return begun - started + ranking * len(rows) / done, facts


def fit_exponents(found: Mapping[str, Mapping[str, Any]]) -> dict[str, float | None]:
    """b of a · interactions^b for time and own memory, by least squares between logarithms; None of one size."""
    import numpy as np

    exponents: dict[str, float | None] = {}
    for figure in ("core_seconds", "own_gb"):
        points = [(int(rows), value[figure]) for rows, value in found.items() if value.get(figure)]
        slope = np.polyfit(*np.log(np.array(points, dtype=np.float64).T), 1)[0] if len(points) > 1 else None
        exponents[figure] = None if slope is None else round(float(slope), 2)
    return exponents


def draw_picture(figures: Mapping[str, Any]) -> "Figure":
    """Seconds and peak memory against interactions, all axes logarithmic; hollow what was scaled up from a share."""
    from recsys.evaluation.plots import INK, make_panels, set_plain_log_axis

    figure, (time_axes, memory_axes) = make_panels("wide", 2, height=3.9)
    for stage, colour in zip(STAGES, _COLOURS, strict=True):
        exponents = figures["exponent"][stage]
        for axes, value in ((time_axes, "seconds"), (memory_axes, "peak_gb")):
            found = {int(rows): each for rows, each in figures[stage].items() if value in each}
            exponent = exponents["core_seconds" if value == "seconds" else "own_gb"]
            label = stage if exponent is None else f"{stage}, $T^{{{exponent:.2f}}}$"
            axes.plot(list(found), [each[value] for each in found.values()], "-", color=colour, linewidth=1.8)
            for rows, each in found.items():
                whole = value != "seconds" or each.get("share", 1) == 1
                axes.plot(rows, each[value], "o", color=colour, markerfacecolor=colour if whole else "white")
            axes.plot([], [], "o-", color=colour, label=label)
    for axes, label, place in (
        (time_axes, "seconds", "upper left"),
        (memory_axes, "peak memory of its process, GB", "lower right"),
    ):
        axes.set_xscale("log")
        axes.set_yscale("log")
        if axes is memory_axes:
            axes.set_ylim(0.1, 1.5 * figures["bound_gb"])
            axes.axhline(figures["bound_gb"], color=INK, linewidth=0.8, linestyle=":")
        set_plain_log_axis(axes, "y")
        axes.set_xlabel("interactions T")
        axes.set_ylabel(label)
        axes.legend(frameon=False, labelcolor=INK, fontsize="small", loc=place)
    return figure


def write_picture(path: Path = PICTURE) -> list[Path]:
    """Draw the committed figures; what was written."""
    from recsys.evaluation.plots import write_png

    figures = read("scale", "")
    if figures is None:
        return []
    write_png(draw_picture(figures), path)
    return [path]


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", type=int, nargs="+", default=list(ROWS), help="sizes of the log")
    parser.add_argument("--share-seconds", type=float, default=60, help="of an epoch or an evaluation (default 60)")


if __name__ == "__main__":
    main(__doc__, body, minutes=20, arguments=arguments)
