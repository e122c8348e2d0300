"""The table of what the benchmarks without cells measured, drawn from `benchmarks/results/<name>.json` alone.

    <!-- drawn: speed * -->
    <!-- end -->

A pattern chooses by "<benchmark>/<figure>".
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import reduce
from typing import Any

from harness import ROOT

# benchmark, path of the figure, what it compares, format
ROWS = (
    ("data", "speedup_vs_pandas/1000000", "preparing a million interactions, against pandas", "times"),
    ("data", "peak_gb/10000000", "peak memory for ten million interactions", "GB"),
    ("training", "speedup_vs_plain", "an epoch of SASRec on MovieLens 100K, against one row for every prefix", "times"),
    ("beauty", "speedup_vs_plain", "an epoch of SASRec on Amazon Beauty, against a plain loop", "times"),
    ("beauty", "speedup_vs_rectools", "the same, against RecTools' SASRec", "times"),
    ("beauty", "longest_over_shortest", "its time with histories of up to 200 items, against 50", "times"),
    ("training", "two_worker_speedup", "two Ray Train workers against one", "times"),
    ("training", "ray_start_seconds", "starting Ray and Ray Train", "s"),
    ("teacher_inference", "speedup", "BIGRec's pass on a model from scratch, against its code", "times"),
    ("teacher_inference", "hllm_speedup", "HLLM's pass over windows, against one row at a time", "times"),
    ("teacher_inference", "e4srec_speedup", "E4SRec's pass over windows, against one row at a time", "times"),
    (
        "headline",
        "student_speedup_over_published",
        "ranking by a student, against SmolLM2-135M by BIGRec's code",
        "times",
    ),
    ("headline", "pass_speedup_over_published", "BIGRec's pass on SmolLM2-135M, against its code", "times"),
    ("headline", "rank_speedup", "ranking by 4 of SmolLM2's layers, against 30", "times"),
    ("headline", "train_speedup", "training 4 of SmolLM2's layers, against 30", "times"),
    ("headline", "p50_over_sasrec/30", "one history by 30 layers, against a SASRec", "times"),
    ("depth", "inference_speedup", "ranking by 4 layers from scratch, against 32", "times"),
    ("depth", "train_speedup_alone", "training 4 layers from scratch, against 32", "times"),
    ("depth", "train_speedup_stored", "the same, taught by stored states of the 32", "times"),
    ("tune", "overhead_share", "share of a sweep that is neither training nor validation", "share"),
    ("tune", "memory_ratio_two_trials", "memory of two trials at once, against one", "times"),
    ("serving", "teacher_over_student_model_time", "time in the model of a request, teacher against student", "times"),
    ("serving", "student/p50_ms", "a request to the student, end to end, median", "ms"),
    (
        "million",
        "clusters/1000000/plain/core_p50_ms",
        "the ten best of a million items, one product and `topk`, on one core",
        "ms",
    ),
    ("million", "clusters/1000000/exact/core_p50_ms", "the same by `serving.scoring=exact`", "ms"),
    ("million", "clusters/1000000/int8/core_p50_ms", "the same by `serving.scoring=int8`", "ms"),
    ("million", "clusters/1000000/int8/recall@10", "of the ten best of a million items, found by int8", "share"),
    ("million", "gaussian/1000000/exact/core_p50_ms", "a million random items by `serving.scoring=exact`", "ms"),
    ("million", "gaussian/1000000/int8/core_p50_ms", "a million random items by `serving.scoring=int8`", "ms"),
    ("million", "gaussian/1000000/int8/recall@10", "of their ten best, found by int8", "share"),
)
_FORMS = {"GB": "{:.2f} GB", "s": "{:.1f} s", "share": "{:.0%}", "ms": "{:.2f} ms"}


@dataclass(frozen=True)
class Speeds:
    """All figures as one table, drawn as a `cells.Table` is."""

    title: str
    notes: Sequence[str]

    def draw(self, pattern: str = "*") -> list[list[str]]:
        lines = [["what", "measured", "benchmark"]]
        for benchmark, figure, says, form in ROWS:
            if fnmatch(f"{benchmark}/{figure}", pattern):
                value = read(benchmark, figure)
                lines.append([says, "–" if value is None else format_figure(value, form), f"`{benchmark}.py`"])
        return lines if len(lines) > 1 else []


def read(benchmark: str, figure: str) -> Any:
    """A committed figure by its path, "" for all; None where the benchmark has no committed results.

    Raises:
        KeyError: it has, but not this figure.
    """
    path = ROOT / "results" / f"{benchmark}.json"
    if not path.is_file():
        return None
    stored = json.loads(path.read_text())
    return reduce(lambda value, key: value[key], figure.split("/") if figure else (), stored)


def format_figure(value: float, form: str) -> str:
    if form == "times":
        return f"{value:,.0f} times" if value >= 100 else f"{value:.3g} times"
    return _FORMS[form].format(value)


def tables() -> list[Speeds]:
    machines = {
        "{processor}, {cores} cores, {memory_gb:.0f} GB, ".format(**hardware)
        + (f"{len(hardware['gpus'])} GPU" if hardware["gpus"] else "no GPU")
        for benchmark, *_ in ROWS
        if (hardware := read(benchmark, "conditions/hardware"))
    }
    return [Speeds("; ".join(sorted(machines)), ())]
