"""A student of 4 layers against its teacher of 32: time to rank, time to train, parameters, in one run.

    python benchmarks/depth.py [--quick] [--minutes N] [--width 256] [--items 12101]

Both are E4SRec models from scratch with random weights, for what was learned does not change the time, on a made-up log
(the catalogue's size is that of Amazon Beauty). Ranking scores the whole catalogue for a batch of histories and takes
the best ten. Training compares whole optimiser steps on the same batches: of the teacher, of the student taught by it
(SLMRec, the frozen teacher's pass over the batch included: `train_speedup`), of the student taught by a teacher of 8
layers as in the paper (`train_speedup_taught_by_8`), of the student taught by the teacher's stored states
(`train_speedup_stored`) and of the student alone. All take turns, in rounds; times are medians on one thread.
`compressed` is the student with int8 and int4 weights, with a quarter of the rank of its feed-forward matrices, and
pruned, nothing retrained. `working_mb` is what ranking a batch or training a step takes beside the weights (training:
gradients and moments too, where they are not there yet).
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

from harness import Options, main, progress

LAYERS, TEACHER_LAYERS, MIDDLE = 4, 32, 8
LENGTH, BLOCKS, BEST = 50, 4, 10


def body(options: Options) -> dict[str, Any]:
    import torch

    from recsys.decoders.compression import compress
    from recsys.decoders.config import CompressionConfig, LowRankConfig
    from recsys.decoders.quantised import numbers_and_bytes
    from recsys.evaluation.latency import time_single_requests
    from recsys.evaluation.ranking import model_scorer
    from recsys.histories import Histories

    torch.set_num_threads(1)
    width, items, batch = (16, 100, 4) if options.quick else (options.args.width, options.args.items, 32)
    dataset = make_random_log(items, users=8 * batch)
    models = make_models(width, items)
    teacher, student = models[TEACHER_LAYERS], models[LAYERS]
    shares = compare_sizes(teacher, student)
    progress(
        f"width {width}, {items:,} items: teacher {shares['teacher_mb']:.1f} MB, student {shares['student_mb']:.1f} MB"
    )

    histories = Histories.of_rows(dataset, dataset.rows("test")[:batch])
    scorers = {name: model_scorer(model) for name, model in (("teacher", teacher), ("student", student))}

    def make_ranking(name: str) -> Callable[[], Any]:
        def rank() -> None:
            with torch.inference_mode():
                scorers[name](histories).topk(BEST)

        return rank

    steps = make_training_steps(models, dataset, batch)
    tasks = {f"rank {name}": make_ranking(name) for name in scorers} | {
        f"train {name}": step for name, step in steps.items()
    }
    seconds = time_in_turns(tasks, options)
    memory = {name: measure_working_memory(task) for name, task in tasks.items()}
    requests = 5 if options.quick else 50
    rank = LowRankConfig(layers=1.0)
    ways = {
        "int8": CompressionConfig(weights="int8"),
        "int4": CompressionConfig(weights="int4"),
        "low-rank": CompressionConfig(low_rank=rank),
        "low-rank+int4": CompressionConfig(low_rank=rank, weights="int4"),
        "half the neurons and heads": CompressionConfig(neurons=0.5, heads=0.5),
    }
    smaller = {name: compress(student, way) for name, way in ways.items()}
    every = scorers | {name: model_scorer(model) for name, model in smaller.items()}
    single = time_single_requests(every, dataset, dataset.rows("test"), requests=requests)
    small = {
        name: {
            "layers_mb": round(numbers_and_bytes(model.decoder.layers)[1] / 1e6, 3),
            "one_history_ms": round(single[name]["median_ms"], 3),
        }
        for name, model in {"student": student, **smaller}.items()
    }
    times = {name: statistics.median(taken) for name, taken in seconds.items()}
    ranked = times["rank teacher"] / times["rank student"]
    return {
        "layer_ratio": TEACHER_LAYERS / LAYERS,
        "inference_speedup": round(ranked, 2),
        "inference_speedup_over_layer_ratio": round(ranked * LAYERS / TEACHER_LAYERS, 3),
        "inference_speedup_one_history": round(single["teacher"]["median_ms"] / single["student"]["median_ms"], 2),
        "train_speedup": round(times["train teacher"] / times["train taught"], 2),
        "train_speedup_taught_by_8": round(times["train teacher"] / times["train taught by 8"], 2),
        "train_speedup_stored": round(times["train teacher"] / times["train taught by stored states"], 2),
        "train_speedup_alone": round(times["train teacher"] / times["train alone"], 2),
        **shares,
        "compressed": small,
        "working_mb": memory,
        "seconds": {name: round(value, 4) for name, value in times.items()},
        "rounds": len(seconds["rank teacher"]),
        "width": width,
        "items": items,
        "batch": batch,
    }


def time_in_turns(tasks: dict[str, Callable[[], Any]], options: Options) -> dict[str, list[float]]:
    """Seconds of each task in each round, after one that does not count; rounds while there is time."""
    rounds, enough = (2, 0.0) if options.quick else (9, options.seconds_left * 0.4)
    taken: dict[str, list[float]] = {name: [] for name in tasks}
    for number in range(-1, rounds):
        if number > 2 and options.seconds_left < enough:
            break
        for name, task in tasks.items():
            started = time.perf_counter()
            task()
            if number >= 0:
                taken[name].append(time.perf_counter() - started)
        progress(f"round {number + 1} of at most {rounds}" if number >= 0 else "warmed up")
    return taken


def measure_working_memory(task: Callable[[], Any]) -> float | None:
    """How much the resident memory rises at most while a task runs; None where this system does not tell."""
    import ctypes
    from pathlib import Path

    def now(which: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(which))

    try:
        ctypes.CDLL(None).malloc_trim(0)  # what earlier tasks have freed would be taken again unseen
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    except (OSError, AttributeError):
        return None
    before = now("VmRSS")
    task()
    return round((now("VmHWM") - before) / 1024, 1)


def make_models(width: int, items: int) -> dict[int, Any]:
    """E4SRec models of random weights by depth, on one table of ids."""
    import torch

    from recsys.teachers.config import E4SRecConfig
    from recsys.teachers.e4srec import E4SRec

    torch.manual_seed(0)
    ids = torch.randn(items + 1, min(64, width))
    heads = max(1, width // 64)
    return {
        depth: E4SRec.build(E4SRecConfig(kind="e4srec", width=width, heads=heads, layers=depth), ids).eval()
        for depth in (LAYERS, MIDDLE, TEACHER_LAYERS)
    }


def make_training_steps(models: dict[int, Any], dataset: Any, batch: int) -> dict[str, Callable[[], Any]]:
    """One optimiser step of each, on the same batches in the same order."""
    import copy
    from dataclasses import replace

    import torch

    from recsys.losses.alignment import block_ends
    from recsys.losses.config import AlignmentConfig, RecommendationLossConfig
    from recsys.signals.states import StatesMeta, StoredStates
    from recsys.students.slmrec import SLMRecObjective
    from recsys.training.config import TrainingConfig
    from recsys.training.engine import build_engine
    from recsys.training.objective import NextItemObjective, Objective

    loss, alignment = RecommendationLossConfig(), AlignmentConfig(blocks=BLOCKS)
    objectives: dict[str, Objective] = {
        "teacher": NextItemObjective(copy.deepcopy(models[TEACHER_LAYERS]), loss, dataset),
        "alone": SLMRecObjective(copy.deepcopy(models[LAYERS]), loss, dataset),
    }
    for name, depth in (("taught", TEACHER_LAYERS), ("taught by 8", MIDDLE)):
        objectives[name] = SLMRecObjective(
            copy.deepcopy(models[LAYERS]), loss, dataset, alignment=alignment, teacher=models[depth]
        )
    # Random numbers in the place of the teacher's states: what they say does not change the time.
    rows, width = dataset.rows("train"), models[TEACHER_LAYERS].width
    meta = StatesMeta(layers=block_ends(TEACHER_LAYERS, BLOCKS), width=width, dtype="bf16")
    states = torch.randn(len(rows), BLOCKS, width).bfloat16()
    objectives["taught by stored states"] = SLMRecObjective(
        copy.deepcopy(models[LAYERS]),
        loss,
        dataset,
        alignment=replace(alignment, stored=True),
        teacher=models[TEACHER_LAYERS],
        stored=StoredStates(meta, "", rows, states, len(dataset.items)),
    )
    config = TrainingConfig(batch_size=batch)

    def make_step(objective: Objective) -> Callable[[], Any]:
        engine = build_engine(objective.train(), config, torch.device("cpu"))
        batches = list(objective.batches(dataset, config, rank=0, world=1).epoch(0))
        turn = iter(batches * 100)

        def step() -> None:
            engine.step(*next(turn), learning_rate=1e-4)

        return step

    return {name: make_step(objective) for name, objective in objectives.items()}


def compare_sizes(teacher: Any, student: Any) -> dict[str, float]:
    """How much of the teacher the student is: in transformer blocks, in all weights, in megabytes."""

    def blocks(model: Any) -> int:
        return sum(parameter.numel() for parameter in model.decoder.layers.parameters())

    def megabytes(model: Any) -> float:
        return sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values()) / 1e6

    return {
        "parameter_share": round(blocks(student) / blocks(teacher), 4),
        "parameter_share_total": round(megabytes(student) / megabytes(teacher), 4),
        "teacher_mb": round(megabytes(teacher), 2),
        "student_mb": round(megabytes(student), 2),
    }


def make_random_log(items: int, users: int) -> Any:
    """Sequences of LENGTH + 2 items, leave-one-out, every window as long as it can be."""
    import numpy as np

    from recsys.data.prepared import Catalogue, PreparedDataset

    generator = np.random.default_rng(0)
    size = LENGTH + 3
    sequences = generator.integers(1, items + 1, users * size).astype(np.int32)
    offsets = np.arange(0, users * size + 1, size, dtype=np.int64)
    inner = np.ones(len(sequences), dtype=bool)
    inner[np.concatenate([offsets[:-1], offsets[1:] - 1, offsets[1:] - 2])] = False
    names = ["", *(str(number) for number in range(1, items + 1))]
    return PreparedDataset(
        name="random",
        source={},
        protocol="leave_one_out",
        max_history=LENGTH,
        catalogue=Catalogue(names, names, np.bincount(sequences[inner], minlength=items + 1).astype(np.int64)),
        user_ids=[str(number) for number in range(users)],
        offsets=offsets,
        items=sequences,
        timestamps=np.arange(len(sequences), dtype=np.int64),
        split_rows={"train": np.flatnonzero(inner), "valid": offsets[1:] - 2, "test": offsets[1:] - 1},
    )


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--width", type=int, default=256, help="of the decoder (default 256)")
    parser.add_argument("--items", type=int, default=12101, help="size of the catalogue (default 12101)")


if __name__ == "__main__":
    main(__doc__, body, arguments=arguments)
