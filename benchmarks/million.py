"""How long a student takes for one history as the catalogue grows to a million items, exactly and by int8 first.

    python benchmarks/million.py [--quick] [--minutes N] [--width 64] [--sizes 10000 100000 1000000]

The student is a SASRec of random weights. `gaussian` item vectors are independent normal numbers; `clusters` lie around
1,000 centres of very different sizes and differ in length, as trained ones do. Histories are 50 items, of one cluster
each at `clusters`; what is expected after them is like the last of them. Times are of one thread, from catalogue ids to
catalogue ids, the ways taking turns in an order drawn for each history: `plain` is one product of the whole table and
`torch.topk`, `exact` and `int8` are `Recommender(scoring=…)`. `recall@10` is the share of plain's ten items that a way
finds. `p50_ms` is by the clock; `core`, like all below it, is time on a core, which the clock would tell if nothing
else ran (but for the bandwidth of the memory, which cores share). `filtered` chooses from a tenth of the catalogue;
`batch_of_8` is eight histories in one pass, per history. `limit_ms` is how long a core takes to read the table once and
do next to nothing with it; `limit_share` is that over the median. `resident_mb` is what a way adds to the memory
of the process.
"""

import argparse
import ctypes
import gc
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness import Options, main, progress

LENGTH, BEST, BATCH = 50, 10, 8
KINDS = ("gaussian", "clusters")


def body(options: Options) -> dict[str, Any]:
    import torch

    torch.set_num_threads(1)
    sizes = [500, 20_000] if options.quick else options.args.sizes
    requests = 10 if options.quick else 200
    figures: dict[str, Any] = {kind: {} for kind in KINDS}
    for kind in KINDS:
        for items in sizes:
            found = figures[kind][str(items)] = measure(kind, items, options.args.width, requests)
            says = ", ".join(f"{way} {found[way]['core_p50_ms']:.2f} ms" for way in ("plain", "exact", "int8"))
            progress(f"{items:,} items, {kind}: {says}, recall {found['int8']['recall@10']:.3f}")
    return {**figures, "width": options.args.width, "history": LENGTH, "requests": requests}


def measure(kind: str, items: int, width: int, requests: int) -> dict[str, Any]:
    """All figures of one catalogue."""
    import numpy as np

    from recsys.serving.recommender import Recommender
    from recsys.serving.selection import Candidates

    catalogue, histories, table = make_catalogue(kind, items, width, requests)
    before = read_resident_mb()
    checkpoint = make_checkpoint(catalogue, table, width)
    exact = Recommender(checkpoint)
    resident = {"exact": read_resident_mb() - before}
    started = time.perf_counter()
    int8 = Recommender(checkpoint, "int8")
    built = time.perf_counter() - started
    resident["int8"] = read_resident_mb() - before

    tenth = Candidates(excluded=np.zeros(0, dtype=np.int64), allowed=np.arange(1, items + 1, 10))
    ways: dict[str, Callable[[list[str]], list[str]]] = {
        "plain": make_plain(checkpoint, table),
        "exact": lambda history: exact.recommend([history], BEST)[0],
        "int8": lambda history: int8.recommend([history], BEST)[0],
    }
    taken, answers = time_in_turns(ways, histories)
    found: dict[str, Any] = {way: describe(seconds) for way, seconds in taken.items()}
    limits = {
        "exact": measure_reading(4 * width * (items + 1)),
        "int8": measure_reading(width * (items + 1)),
    }
    for way, recommender in (("exact", exact), ("int8", int8)):
        pairs = list(zip(answers["plain"], answers[way], strict=True))
        filtered, _ = time_in_turns(
            {"": lambda history, by=recommender: by.rank([history], BEST, selection=tenth)}, histories[: requests // 4]
        )
        batches = [histories[begin : begin + BATCH] for begin in range(0, requests // 2, BATCH)]
        together, _ = time_in_turns({"": lambda batch, by=recommender: by.rank(batch, BEST)}, batches)
        found[way] |= {
            "recall@10": round(statistics.mean(len(set(right) & set(got)) / len(right) for right, got in pairs), 4),
            "same_order": round(statistics.mean(right == got for right, got in pairs), 4),
            "filtered_core_ms": describe(filtered[""])["core_p50_ms"],
            "batch_of_8_core_ms": round(describe(together[""])["core_p50_ms"] / BATCH, 3),
            "parts_core_ms": time_parts(recommender, histories),
            "limit_ms": round(limits[way], 3),
            "limit_share": round(limits[way] / found[way]["core_p50_ms"], 3),
            "resident_mb": round(resident[way], 1),
        }
    found["int8"]["build_seconds"] = round(built, 2)
    return found


def make_catalogue(kind: str, items: int, width: int, requests: int) -> tuple[Any, list[list[str]], Any]:
    """A catalogue of numbers, histories, and item vectors [N+1, D] of a length of about 1."""
    import numpy as np
    import torch

    from recsys.data.prepared import Catalogue

    generator = np.random.default_rng(0)
    vectors = generator.standard_normal((items + 1, width), dtype=np.float32)
    rows = generator.integers(1, items + 1, (requests, LENGTH))
    if kind == "clusters":
        centres = generator.standard_normal((1000, width), dtype=np.float32)
        shares = 1 / np.arange(1, len(centres) + 1) ** 0.7
        of_item = generator.choice(len(centres), items + 1, p=shares / shares.sum())
        vectors *= np.float32(0.6)
        vectors += centres[of_item]
        vectors *= generator.lognormal(0, 0.25, (items + 1, 1)).astype(np.float32)
        for number, row in enumerate(rows):
            rows[number] = generator.choice(np.flatnonzero(of_item[1:] == of_item[row[-1]]) + 1, LENGTH)
    vectors /= width**0.5
    vectors[0] = 0
    ids = ["", *map(str, range(1, items + 1))]
    return (
        Catalogue(ids, ids, np.zeros(items + 1, dtype=np.int64)),
        [list(map(str, row)) for row in rows],
        torch.from_numpy(vectors),
    )


def make_checkpoint(catalogue: Any, table: Any, width: int) -> Any:
    """A SASRec of random weights over the item vectors."""
    import torch

    from recsys.checkpoint import Checkpoint
    from recsys.students.config import SASRecConfig
    from recsys.students.sasrec import SASRec

    torch.manual_seed(0)
    model = SASRec(SASRecConfig(width=width, max_positions=LENGTH), num_items=len(catalogue)).eval()
    with torch.no_grad():
        model.items.weight.copy_(table)
    return Checkpoint(model, catalogue, LENGTH, "", {})


def make_plain(checkpoint: Any, table: Any) -> Callable[[list[str]], list[str]]:
    """One product of the whole table and `torch.topk`."""
    import torch

    from recsys.histories import Histories

    model, catalogue = checkpoint.model, checkpoint.catalogue

    @torch.inference_mode()
    def recommend(history: list[str]) -> list[str]:
        items = [catalogue.index[item] for item in history]
        scores = model.query(Histories.of(torch.tensor([items])), table) @ table.T
        scores[0, [0, *items]] = -torch.inf
        return [catalogue.item_ids[item] for item in scores.topk(BEST).indices[0].tolist()]

    return recommend


def time_parts(recommender: Any, histories: list[list[str]]) -> dict[str, float]:
    """Milliseconds to encode a history, to score the catalogue with what it gives, and to choose the best."""
    import torch

    from recsys.histories import Histories

    model, vectors = recommender.checkpoint.model, recommender.checkpoint.model.item_vectors()
    marks: list[list[Clocks]] = []
    with torch.inference_mode():
        for history in histories:
            shown = Histories.of(torch.tensor([recommender.catalogue.known(history)[0]]))
            marks.append([read_clocks()])
            model.query(shown, vectors)
            marks[-1].append(read_clocks())
            scores = recommender._score(shown)
            marks[-1].append(read_clocks())
            scores.best_of_all(BEST)
            marks[-1].append(read_clocks())
    encode, both, choose = (
        describe([elapsed(row[part], row[part + 1]) for row in marks])["core_p50_ms"] for part in range(3)
    )  # a scorer encodes as well
    return {"encode": encode, "score": round(both - encode, 3), "choose": choose}


Clocks = tuple[float, float]
"""Seconds by the clock, and of this thread on a core."""


def read_clocks() -> Clocks:
    return time.perf_counter(), time.thread_time()


def elapsed(begin: Clocks, end: Clocks) -> Clocks:
    return end[0] - begin[0], end[1] - begin[1]


def time_in_turns(
    ways: dict[str, Callable[[Any], Any]], histories: list[Any]
) -> tuple[dict[str, list[Clocks]], dict[str, list[Any]]]:
    """Seconds and answers of each way for each history, after a few that do not count."""
    import numpy as np

    generator = np.random.default_rng(0)
    for history in histories[:5]:
        for way in ways.values():
            way(history)
    taken: dict[str, list[Clocks]] = {name: [] for name in ways}
    answers: dict[str, list[Any]] = {name: [] for name in ways}
    for history in histories:
        for name in generator.permutation(list(ways)):
            started = read_clocks()
            answer = ways[name](history)
            taken[name].append(elapsed(started, read_clocks()))
            answers[name].append(answer)
    return taken, answers


def describe(seconds: list[Clocks]) -> dict[str, float]:
    import numpy as np

    clock, core = 1000 * np.array(seconds).T
    p50, p95 = np.quantile(clock, [0.5, 0.95])
    return {
        "p50_ms": round(float(p50), 3),
        "p95_ms": round(float(p95), 3),
        "core_p50_ms": round(float(np.median(core)), 3),
    }


def measure_reading(size: int) -> float:
    """Milliseconds, median, to read so many bytes once: the largest of them as 64-bit integers."""
    import torch

    from recsys.serving.memory import allocate

    numbers = allocate((size // 8,), torch.int64).fill_(1)
    taken = []
    for _ in range(50):
        started = read_clocks()
        numbers.amax()
        taken.append(elapsed(started, read_clocks()))
    return describe(taken)["core_p50_ms"]


def read_resident_mb() -> float:
    """Memory of this process, without what it has freed; NaN where the system does not tell."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
        lines = Path("/proc/self/status").read_text().splitlines()
    except (OSError, AttributeError):
        return float("nan")
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1000


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--width", type=int, default=64, help="of the item vectors (default 64)")
    parser.add_argument(
        "--sizes",
        type=int,
        nargs="+",
        default=[10_000, 100_000, 1_000_000],
        help="of the catalogue (default 10⁴ to 10⁶)",
    )


if __name__ == "__main__":
    main(__doc__, body, arguments=arguments)
