"""The tables of docs/scaling.md: what sizes ask for, by formulas and by the figures of `benchmarks/results/`.

    <!-- drawn: scaling * -->
    <!-- end -->

A pattern chooses tables: interactions, items, teachers, passes; stages (`benchmarks/scale.py`) and workers
(`benchmarks/workers.py`). "~" stands before what is computed, or scaled up, and was never run.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

from speed import read

from recsys.config import from_dict
from recsys.stages.estimate import duration
from recsys.stages.teacher_size import Size, fits_card, memory_of
from recsys.training.config import TrainingConfig
from recsys.training.throughput import PEAKS

INTERACTIONS = tuple(10**n for n in range(6, 11))
ITEMS = tuple(10**n for n in range(4, 8))
PER_USER = 50  # interactions, and positions of a window
WIDTH = 64  # of a student
TEXT_WIDTH = 384  # of the demo's item language model
BATCH, EVALUATED, TRAIN_BATCH = 128, 256, 32  # rows of the pass, of an evaluation, windows of a training step
CHUNK = 65_536  # items that the pass scores at once
UTILISATION = 0.3
PROMPT, INSTRUCTION, PREFILL = 256, 16, 0.6  # tokens; the share of BIGRec's time that reads prompts
TRAIN_ROWS, EPOCHS, RANK = 20_000, 3, 16  # of ray_jobs/configs/gpu.yaml; of the adapters

# billions of weights: layers, width, feed-forward width, words, widths of all queries and keys, by their config.json
TEACHERS = {
    "0.5 (Qwen2.5-0.5B)": (24, 896, 4864, 151_936, 896, 128),
    "1.7 (Qwen3-1.7B)": (28, 2048, 6144, 151_936, 2048, 1024),
    "8 (Qwen3-8B)": (36, 4096, 12_288, 151_936, 4096, 1024),
    "32 (Qwen3-32B)": (64, 5120, 25_600, 151_936, 8192, 1024),
    "70 (Llama-3.1-70B)": (80, 8192, 28_672, 128_256, 8192, 1024),
}


@dataclass(frozen=True)
class Drawn:
    """A table, drawn as a `cells.Table` is."""

    name: str
    title: str
    lines: Sequence[Sequence[str]]
    notes: Sequence[str] = ()

    def draw(self, pattern: str = "*") -> list[list[str]]:
        return [list(line) for line in self.lines] if fnmatch(self.name, pattern) else []


def dataset_bytes(interactions: int, users: int) -> int:
    """A loaded dataset: items (int32), times (int64), training rows (int64); offsets and ids of users."""
    return 20 * interactions + 76 * users


def table_bytes(items: int, width: int) -> int:
    """Item vectors in fp32."""
    return 4 * items * width


def size_of(layers: int, width: int, feed_forward: int, words: int, queries: int, keys: int) -> Size:
    """A Llama-like decoder with adapters on its feed-forward layers, its output tied to its words up to 2 billion."""
    layer = 2 * width * queries + 2 * width * keys + 3 * width * feed_forward
    table = words * width
    inner = layers * layer
    return Size(
        weights=inner + table * (1 if inner < 2e9 else 2),
        trained=layers * 3 * RANK * (width + feed_forward),
        layers=layers,
        width=width,
        feed_forward=feed_forward,
        scored=words,
        row_tokens=PROMPT,
    )


def cards_needed(size: Size, card: str) -> int:
    """The fewest of 1, 2, 4, … on which training with adapters and ZeRO-3 fits."""
    values = {"precision": "bf16", "checkpointing": True, "batch_size": TRAIN_BATCH, "accumulation": 4}
    training = from_dict(TrainingConfig, {**values, "deepspeed": {"zero_stage": 3}})
    count = 1
    while not fits_card(memory_of(size, training, count), card):
        count *= 2
        assert count <= 1024
    return count


def window_pass(size: Size, rows: int, items: int) -> float:
    """Operations of a pass over windows, every row scored against the catalogue."""
    windows = rows / PER_USER
    return 2.0 * size.weights * (rows + INSTRUCTION * windows) + 2.0 * rows * items * size.width


def prompt_pass(size: Size, rows: int) -> float:
    """Operations of BIGRec's pass, a prompt for every row."""
    return 2.0 * size.weights * rows * PROMPT / PREFILL


def _interactions() -> list[list[str]]:
    peaks, rates = read("data", "peak_gb") or {}, read("data", "rows_per_second") or {}
    on_ray = read("data", "ray_rows_per_second") or {}
    (small, low), (large, high) = sorted((int(rows), float(peak)) for rows, peak in peaks.items())
    slope, most = (high - low) / (large - small), str(large)
    lines = [
        [
            "interactions",
            "prepare, one process",
            "its peak",
            "prepare by Ray, two cores",
            "driver",
            "dataset in a process",
        ]
    ]
    for rows in INTERACTIONS:
        known = str(rows) in peaks
        mark = "" if known else "~"
        rate = rates[str(rows) if known else most]
        ray = on_ray[str(rows) if known else most]
        peak = peaks[str(rows)] if known else low + slope * (rows - small)
        lines.append(
            [
                _power(rows),
                mark + duration(rows / rate),
                mark + _bytes(1e9 * peak),
                mark + duration(rows / ray),
                _bytes(12 * rows),
                _bytes(dataset_bytes(rows, rows // PER_USER)),
            ]
        )
    return lines


def _items() -> list[list[str]]:
    lines = [
        [
            "items", "student served", "student in training", "scores of a training step", "scores of an evaluation",
            "scores of the pass", "teacher's item vectors", "operations of a request",
        ]
    ]  # fmt: skip
    for items in ITEMS:
        table = table_bytes(items, WIDTH)
        lines.append(
            [
                _power(items),
                _bytes(table),
                _bytes(4 * table),
                _bytes(4 * TRAIN_BATCH * PER_USER * items),
                _bytes(4 * EVALUATED * items),
                _bytes(4 * BATCH * min(items, CHUNK)),
                _bytes(table_bytes(items, TEXT_WIDTH)),
                f"{2 * items * WIDTH / 1e6:,.4g} M",
            ]
        )
    return lines


def _teachers() -> list[list[str]]:
    lines = [["billion weights", "weights, bf16", "cards of 24 GB", "cards of 80 GB", "H100-hours of a training"]]
    for name, shape in TEACHERS.items():
        size = size_of(*shape)
        operations = 2.0 * size.weights * TRAIN_ROWS * PROMPT * (2 + size.trained / size.weights) * EPOCHS
        lines.append(
            [
                name,
                _bytes(2 * size.weights),
                f"~{cards_needed(size, 'A10G')}",
                f"~{cards_needed(size, 'H100')}",
                f"~{_hours(operations)}",
            ]
        )
    return lines


def _passes() -> list[list[str]]:
    lines = [
        ["billion weights", *(f"{kind}, {_power(rows)} rows" for kind in ("windows", "prompts") for rows in _ROWS)]
    ]
    for name, shape in TEACHERS.items():
        size = size_of(*shape)
        windows = [window_pass(size, rows, 10**6) for rows in _ROWS]
        prompts = [prompt_pass(size, rows) for rows in _ROWS]
        lines.append([name, *(f"~{_hours(each)}" for each in (*windows, *prompts))])
    return lines


def _stages() -> list[list[str]]:
    """Time and peak memory of each stage, as measured by `scale.py`; empty where it has no results."""
    figures = read("scale", "") or {}
    exponents = figures.get("exponent", {})
    sizes = sorted({int(rows) for stage in exponents for rows in figures[stage]})
    lines = [
        [
            "",
            *map(_power, sizes),
            "time on a core grows by",
            *(f"peak, {_power(rows)}" for rows in sizes),
            "memory grows by",
        ]
    ]
    for stage, exponent in exponents.items():
        found = [figures[stage].get(str(rows), {}) for rows in sizes]
        times = [_time(each) for each in found]
        peaks = [_bytes(1e9 * each["peak_gb"]) if "peak_gb" in each else _refused(each) for each in found]
        lines.append([stage, *times, _exponent(exponent["core_seconds"]), *peaks, _exponent(exponent["own_gb"])])
    return lines if len(lines) > 1 else []


def _time(found: dict[str, Any]) -> str:
    if "seconds" not in found:
        return _refused(found)
    seconds, mark = found["seconds"], "~" if found.get("share", 1) < 1 else ""
    return mark + (f"{seconds:.1f} s" if seconds < 10 else duration(seconds))


def _refused(found: dict[str, Any]) -> str:
    return f"over {read('scale', 'limit_gb')} GB" if found.get("over_limit") else "–"


def _exponent(value: float | None) -> str:
    return "–" if value is None else f"T^{value:.2f}"


def _workers() -> list[list[str]]:
    """Rows per second by workers, as measured by `workers.py`; empty where it has no results."""
    figures = read("workers", "") or {}
    if not figures:
        return []
    counts = [count for count in figures["pass"] if count != "in_process"]
    heads = ["rows/s", "without Ray", *(f"Ray, {count}" for count in counts)]
    heads += [f"of {count} times one" for count in counts[1:]] + ["Ray costs", "start, 1", f"start, {counts[-1]}"]
    lines = [heads]
    for name, says in (
        ("pass", "teacher's pass"),
        ("distillation", "distillation"),
        ("simulated_pass", "pass, teacher simulated"),
        ("simulated_distillation", "distillation, teacher simulated"),
    ):
        stage = figures[name]
        rates = [f"{stage[count]['rows_per_second']:,.0f}" for count in ("in_process", *counts)]
        shares = [f"{figures['scaling'][name][count]:.0%}" for count in counts[1:]]
        starts = [f"{stage[count]['start_seconds']:.1f} s" for count in (counts[0], counts[-1])]
        lines.append([says, *rates, *shares, f"{figures['overhead'][name]:.0%}", *starts])
    return lines


_ROWS = (10**6, 10**8, 10**10)


def _hours(operations: float) -> str:
    hours = operations / (PEAKS["H100"] * UTILISATION) / 3600
    return f"{hours:.2g}" if hours < 10 else f"{float(f'{hours:.2g}'):,.0f}"


def _power(number: int) -> str:
    return f"10^{len(str(number)) - 1}"


def _bytes(number: float) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number / 1e3:.3g} kB"


def tables() -> list[Drawn]:
    measured = f"By interactions, {PER_USER} a user; measured on {_machine('data')}"
    return [
        Drawn("interactions", measured, _interactions()),
        Drawn("items", f"By items; students {WIDTH} wide, text vectors {TEXT_WIDTH} wide, fp32", _items()),
        Drawn(
            "teachers",
            f"Training BIGRec with adapters: {TRAIN_ROWS:,} prompts of {PROMPT} tokens, {EPOCHS} epochs, bf16, ZeRO-3",
            _teachers(),
        ),
        Drawn("passes", f"H100-hours of a pass, {_power(10**6)} items", _passes()),
        Drawn(
            "stages",
            f"Time and peak memory of a stage's process by interactions; {_machine('scale')}",
            _stages(),
            ["![time and peak memory of each stage against interactions](cost-curve.png)"],
        ),
        Drawn("workers", f"Work per worker held constant; {_machine('workers')}", _workers()),
    ]


def _machine(benchmark: str) -> str:
    hardware: dict[str, Any] = read(benchmark, "conditions/hardware") or {}
    return f"{hardware.get('processor', '?')}, {hardware.get('cores', '?')} cores"
