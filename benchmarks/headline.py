"""The two papers' claims about time, each side measured in one run: a language model against what is distilled from it.

    python benchmarks/headline.py [--quick] [--minutes N] [--data-dir D] [--teacher CHECKPOINT]

BIGRec on SmolLM2-135M (4-bit copy; adapters trained for a quarter of the time limit, or those of --teacher) ranks test
rows by the published procedure (`benchmarks/teacher_inference.py` describes it) and by our pass, both in fp32, with the
same beams, on the same sample; a SASRec as the demo's ranks all test rows. `…_seconds` are of the whole test set: those
of the student measured, those of the two others **extrapolated** from the sample (`sampled_rows`, in file order). The
paper (DLLM2Rec) found 12,700 between the published procedure and its student.

E4SRec on all 30 layers against four of them, without what was learned, which does not change the time: a training step
by adapters, of four layers alone and taught by the 30 (the frozen teacher's pass over the batch included), ranking a
batch, and `p50_ms` of one history on one thread, beside the SASRec's. The paper (SLMRec, 32 layers against 4, A100)
found 6.6 in training and 8.0 in ranking.

Rows are those of MovieLens 100K (data set `ml-100k` of --data-dir, or what `make demo` prepared).
"""

import argparse
import os
import statistics
import time
from typing import Any

import numpy as np
import torch
from depth import time_in_turns
from harness import Options, PeakMemory, add_project_arguments, main, progress, scratch
from teacher_inference import BEAMS, K, compute_agreement, load_data, run_published, train

from recsys.checkpoint import load_checkpoint
from recsys.data.prepared import PreparedDataset
from recsys.decoders.config import LoRAConfig
from recsys.decoders.pretrained import SMOLLM2
from recsys.errors import UserError
from recsys.evaluation.latency import time_single_requests
from recsys.evaluation.ranking import model_scorer
from recsys.histories import Histories
from recsys.losses.config import AlignmentConfig, RecommendationLossConfig
from recsys.settings import Settings
from recsys.signals.config import SignalsConfig
from recsys.students.config import SASRecConfig
from recsys.students.sasrec import SASRec
from recsys.students.slmrec import SLMRecObjective
from recsys.teachers.bigrec.bigrec import BIGRec
from recsys.teachers.bigrec.config import BIGRecConfig, BIGRecLoRAConfig
from recsys.teachers.config import E4SRecConfig
from recsys.teachers.e4srec import E4SRec
from recsys.training.config import TrainingConfig
from recsys.training.engine import build_engine
from recsys.training.objective import NextItemObjective, Objective

LAYERS, TEACHER_LAYERS, BLOCKS = 4, 30, 2
BATCH = 16


def body(options: Options) -> dict[str, Any]:
    load = os.getloadavg()[0]
    with scratch() as folder, PeakMemory() as memory:
        dataset = load_data(options)
        torch.manual_seed(0)
        student = SASRec(SASRecConfig(max_positions=dataset.max_history), num_items=dataset.num_items).eval()
        model = build_bigrec(dataset, folder, options)
        figures = measure_headline(model, student, dataset, options)
        del model
        figures |= measure_layers(student, dataset, options)
    return {
        **figures,
        "language_model": "from scratch" if options.quick else f"{SMOLLM2.title}, 4-bit copy",
        "threads": torch.get_num_threads(),
        "load_at_start": round(load, 2),
        "load_at_end": round(os.getloadavg()[0], 2),
        "peak_gb": round(memory.gb, 3),
    }


def build_bigrec(dataset: PreparedDataset, folder: str, options: Options) -> BIGRec:
    if options.quick:
        return train(dataset, folder, options)[0]
    if options.args.teacher is None:
        return train_adapters(dataset, options)
    checkpoint = load_checkpoint(options.args.teacher)
    checkpoint.check_dataset(dataset, "--teacher", "train it on this one")
    if not isinstance(checkpoint.model, BIGRec):
        raise UserError(f"--teacher is of kind {checkpoint.model.kind}; name a checkpoint of a BIGRec teacher")
    return checkpoint.model


def train_adapters(dataset: PreparedDataset, options: Options) -> BIGRec:
    """BIGRec on the pretrained model, its adapters trained until it writes titles."""
    config = BIGRecConfig(base=SMOLLM2.name, lora=BIGRecLoRAConfig(), beams=BEAMS, max_tokens=256)
    cache = Settings(storage=options.args.storage).layout.storage_root  # title vectors are kept there
    inputs = BIGRec.prepare(config, dataset, cache=cache, student=str)
    objective = BIGRec.objective(config, dataset, inputs, seed=0)
    learning = TrainingConfig(batch_size=4, gradient_clipping=1.0, precision="bf16")
    engine = build_engine(objective, learning, torch.device("cpu"))
    until = time.monotonic() + 15 * options.minutes
    progress("title vectors are there")
    for steps, (batch, total) in enumerate(objective.batches(dataset, learning, rank=0, world=1).epoch(0), start=1):
        loss = engine.step(batch, total, 1e-3)["loss"]
        if time.monotonic() > until:
            progress(f"training: {steps} steps of {learning.batch_size} rows, loss {float(loss):.2f}")
            break
    model: BIGRec = objective.model
    return model.eval()


def measure_headline(model: BIGRec, student: SASRec, dataset: PreparedDataset, options: Options) -> dict[str, Any]:
    test = dataset.rows("test")
    limit = 0 if options.quick else options.seconds_left * 0.5
    seconds, texts, nearest = run_published(model, dataset, test[: 16 if options.quick else len(test)], limit)
    rows = test[: len(texts)]
    progress(f"published procedure: {len(rows)} rows in {seconds:.1f} s")
    ready = model.ready(SignalsConfig(k=K, dtype="fp32", mask_history=False), "cpu")
    began = time.perf_counter()
    ranked = ready.rank(dataset, rows)
    ours = time.perf_counter() - began
    progress(f"our pass: {len(rows)} rows in {ours:.1f} s")
    fast = statistics.median(time_student(student, dataset, test) for _ in range(1 if options.quick else 9))
    progress(f"student: {len(test)} rows in {fast:.3f} s")
    share = len(test) / len(rows)
    return {
        "student_speedup_over_published": round(seconds * share / fast, 1),
        "student_speedup_over_pass": round(ours * share / fast, 1),
        "pass_speedup_over_published": round(seconds / ours, 2),
        "same_top1": round(compute_agreement(ranked.items[:, 0].tolist(), nearest), 4),
        "published_seconds": round(seconds * share, 1),
        "pass_seconds": round(ours * share, 1),
        "student_seconds": round(fast, 4),
        "test_rows": len(test),
        "sampled_rows": len(rows),
        "distinct_texts": len(set(texts)),
    }


@torch.inference_mode()
def time_student(student: SASRec, dataset: PreparedDataset, rows: np.ndarray) -> float:
    began = time.perf_counter()
    for begin in range(0, len(rows), 256):
        student.scores(Histories.of_rows(dataset, rows[begin : begin + 256]))[:, 1:].topk(K, dim=1)
    return time.perf_counter() - began


def measure_layers(student: SASRec, dataset: PreparedDataset, options: Options) -> dict[str, Any]:
    """30 layers against 4 of them."""
    torch.manual_seed(0)
    ids = torch.randn(dataset.num_items + 1, 64)

    def build(count: int, **adapters: Any) -> E4SRec:
        if options.quick:
            return E4SRec.build(E4SRecConfig(kind="e4srec", width=16, heads=1, layers=count), ids)
        return E4SRec.build(E4SRecConfig(kind="e4srec", llm=SMOLLM2.name, base_layers=count, **adapters), ids)

    models = {count: build(count).eval() for count in (TEACHER_LAYERS, LAYERS)}
    histories = Histories.of_rows(dataset, dataset.rows("test")[:BATCH])
    loss = RecommendationLossConfig()
    taught = AlignmentConfig(blocks=BLOCKS, supervision=0.0)
    objectives: dict[str, Objective] = {
        "train 30": NextItemObjective(build(TEACHER_LAYERS, lora=LoRAConfig()), loss, dataset),
        "train 4": NextItemObjective(build(LAYERS, lora=LoRAConfig()), loss, dataset),
        "train 4 taught": SLMRecObjective(
            build(LAYERS, lora=LoRAConfig()), loss, dataset, alignment=taught, teacher=models[TEACHER_LAYERS]
        ),
    }
    tasks: dict[str, Any] = {f"rank {count}": prepare_ranking(model, histories) for count, model in models.items()}
    tasks |= {name: prepare_step(objective, dataset) for name, objective in objectives.items()}
    progress("30 layers and 4: built")
    times = {name: statistics.median(taken) for name, taken in time_in_turns(tasks, options).items()}
    scorers = {str(count): model_scorer(model) for count, model in models.items()} | {"sasrec": model_scorer(student)}
    single = time_single_requests(scorers, dataset, dataset.rows("test"), requests=5 if options.quick else 20)
    p50 = {name: taken["median_ms"] for name, taken in single.items()}
    return {
        "rank_speedup": round(times["rank 30"] / times["rank 4"], 2),
        "train_speedup": round(times["train 30"] / times["train 4"], 2),
        "train_speedup_taught": round(times["train 30"] / times["train 4 taught"], 2),
        "p50_speedup": round(p50["30"] / p50["4"], 2),
        "p50_over_sasrec": {name: round(value / p50["sasrec"], 1) for name, value in p50.items() if name != "sasrec"},
        "p50_ms": {name: round(value, 3) for name, value in p50.items()},
        "layer_ratio": TEACHER_LAYERS / LAYERS,
        "seconds": {name: round(value, 4) for name, value in times.items()},
    }


def prepare_ranking(model: E4SRec, histories: Histories) -> Any:
    scorer = model_scorer(model)

    def rank() -> None:
        with torch.inference_mode():
            scorer(histories).topk(K)

    return rank


def prepare_step(objective: Objective, dataset: PreparedDataset) -> Any:
    """One optimiser step on a batch of the longest windows, the same for all."""
    config = TrainingConfig(batch_size=BATCH, precision="bf16")
    engine = build_engine(objective.train(), config, torch.device("cpu"))
    longest = max(objective.batches(dataset, config, rank=0, world=1).epoch(0), key=lambda step: step[1])
    return lambda: engine.step(*longest, learning_rate=1e-4)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_project_arguments(parser)
    parser.add_argument("--teacher", metavar="URI", help="a BIGRec teacher's checkpoint, in place of a short training")


if __name__ == "__main__":
    main(__doc__, body, arguments=add_arguments)
