"""Rows a second of the teacher passes against the plain procedures they replace, same checkpoint, same rows, one run.

    python benchmarks/teacher_inference.py [--quick] [--minutes N] [--data-dir D]

BIGRec: the published procedure is transformers' `generate` (4 beams, left-padded batches of 8 in file order, 128 new
tokens, stop at the end of the text), then one pass of the language model for each text and its distances to the whole
catalogue. Ours is `BIGRec.ready(…).rank(…)`, with the same beams, in fp32 like the published side; its gain in bf16 is
a figure of its own. Both read MovieLens 100K (data set `ml-100k` of --data-dir, or what `make demo` prepared); the
language model is made from scratch and trained here until at least 95 % of its texts close with a quotation mark, or
for a third of the time limit (`closed` says how many do).

HLLM, with random weights because only time is asked for: causal passes over windows against one row at a time.

`flop_share` is the share that the BIGRec pass reaches of the rate of one large matrix product on the same threads: its
limit is the processor's arithmetic, most of it spent on reading prompts (`prefill_share` of the operations).
"""

import argparse
import multiprocessing
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
import torch
from harness import FIXTURE, Options, PeakMemory, main, progress, scratch
from torch.utils.flop_counter import FlopCounterMode

from ray_jobs.settings import Settings
from recsys.checkpoint import load_checkpoint, save_checkpoint
from recsys.data.config import DataConfig
from recsys.data.prepare import prepare
from recsys.data.prepared import PreparedDataset
from recsys.teachers.bigrec.bigrec import BIGRec, TitlePass
from recsys.teachers.bigrec.config import BIGRecConfig
from recsys.teachers.config import HLLMConfig, SignalsConfig
from recsys.teachers.engine import TeacherEngine
from recsys.teachers.hllm import HLLM
from recsys.teachers.ranking import rank_rows
from recsys.teachers.teacher import Rankings
from recsys.training.config import TrainingConfig
from recsys.training.engine import build_engine

BEAMS, BATCH, NEW_TOKENS, K = 4, 8, 128, 20
CLOSED = 0.95
_actor: list[tuple[TitlePass, PreparedDataset]] = []


def body(options: Options) -> dict[str, Any]:
    with scratch() as folder, PeakMemory() as memory:
        dataset = data(options)
        model, closed = train(dataset, folder, options)
        # Before the engines convert the model in place.
        ratio = None if options.quick else two_actor_time_ratio(model, dataset, folder)
        figures = {"closed": closed, **bigrec(model, dataset, options), **hllm(dataset, options)}
    return {
        **figures,
        "two_actor_time_ratio": ratio,
        "rows_in_data": len(dataset.rows("train")) + len(dataset.rows("valid")) + len(dataset.rows("test")),
        "items": dataset.num_items,
        "parameters": sum(parameter.numel() for parameter in model.lm.parameters()),
        "threads": torch.get_num_threads(),
        "peak_gb": round(memory.gb, 3),
    }


def data(options: Options) -> PreparedDataset:
    if options.quick:
        return prepare(DataConfig(path=str(FIXTURE)), "quick", report=lambda _: None)
    if options.data_dir is not None:
        return prepare(DataConfig(path=str(options.dataset("ml-100k"))), "ml-100k", report=progress)
    return PreparedDataset.load(Settings(name=options.args.name, storage=options.args.storage).layout.dataset)


def train(dataset: PreparedDataset, folder: str, options: Options) -> tuple[BIGRec, float]:
    """A teacher made from scratch whose texts close, and the share of those that do."""
    size = {"width": 32, "layers": 1, "heads": 2, "vocabulary": 400} if options.quick else {}
    config = BIGRecConfig(beams=BEAMS, **size)
    objective = BIGRec.objective(config, dataset, BIGRec.prepare(config, dataset, cache=folder, student=str), seed=0)
    model: BIGRec = objective.model
    learning = TrainingConfig(batch_size=16 if options.quick else 32, gradient_clipping=1.0, precision="bf16")
    engine = build_engine(objective, learning, torch.device("cpu"))
    until = time.monotonic() + (5 if options.quick else 20 * options.minutes)
    batches = objective.batches(dataset, learning, rank=0, world=1)
    sample = histories(dataset, dataset.sample("valid", 64, seed=1))
    steps = 0
    for batch, total in (step for epoch in range(100) for step in batches.epoch(epoch)):
        loss = engine.step(batch, total, 4e-3 if options.quick else 2e-3)["loss"]
        steps += 1
        if steps % 25 and time.monotonic() < until:
            continue
        model.eval()
        closed = closed_share(model, sample)
        progress(f"training: {steps} steps, loss {float(loss):.2f}, {closed:.0%} of texts close")
        if closed >= (CLOSED + 1) / 2 or time.monotonic() >= until:
            break
        model.train()
    model.embed_titles()
    return model, round(closed_share(model, histories(dataset, dataset.rows("test"))[:256]), 4)


def histories(dataset: PreparedDataset, rows: np.ndarray) -> list[list[int]]:
    return [dataset.seen(int(row))[-dataset.max_history :].tolist() for row in rows]


def closed_share(model: BIGRec, chosen: list[list[int]]) -> float:
    """The share of greedy texts that end with a closing quotation mark."""
    prompts = [model.prompts.history(history) for history in chosen]
    written = model.generator(model.lm).generate(prompts)
    return sum(tokens[-1] in model.prompts.closing for tokens in written) / len(written)


def two_actor_time_ratio(model: BIGRec, dataset: PreparedDataset, folder: str) -> float:
    """Time of two processes, one thread each, for the rows of one, after their start: they share nothing but disk."""
    dataset.write(f"{folder}/dataset")
    save_checkpoint(f"{folder}/teacher", model, dataset)
    rows = dataset.rows("test")[:512]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, context, initializer=start_actor, initargs=(folder,)) as actors:
        list(actors.map(act, [rows[:64]] * 2))
        began = time.perf_counter()
        actors.submit(act, rows).result()
        one = time.perf_counter() - began
        began = time.perf_counter()
        list(actors.map(act, [rows[::2], rows[1::2]]))
        two = time.perf_counter() - began
    progress(f"{len(rows)} rows: one process {one:.1f} s, two {two:.1f} s")
    return round(two / one, 3)


def start_actor(folder: str) -> None:
    """In a process of its own: what an actor of the teacher pass holds."""
    torch.set_num_threads(1)
    dataset = PreparedDataset.load(f"{folder}/dataset")
    model = load_checkpoint(f"{folder}/teacher").model
    assert isinstance(model, BIGRec)
    _actor.append((model.ready(SignalsConfig(k=K, dtype="fp32"), "cpu"), dataset))


def act(rows: np.ndarray) -> int:
    ready, dataset = _actor[0]
    return len(ready.rank(dataset, rows).rows)


def bigrec(model: BIGRec, dataset: PreparedDataset, options: Options) -> dict[str, Any]:
    rows = dataset.rows("test")[: 24 if options.quick else 512]
    limit = 0 if options.quick else options.seconds_left / 2
    plain_seconds, texts, plain_items = published(model, dataset, rows, limit)
    rows = rows[: len(texts)]
    progress(f"published procedure: {len(rows)} rows in {plain_seconds:.1f} s")
    ours: dict[str, tuple[float, list[str], Rankings]] = {}
    operations: dict[str, float] = {}
    # bf16 last: an engine converts its model in place.
    for dtype in ("fp32", "bf16"):
        ready = model.ready(SignalsConfig(k=K, dtype=dtype, mask_history=False), "cpu")
        if dtype == "fp32":
            operations = count(model, dataset, rows, ready._generator)
        times = []
        for _ in range(1 if options.quick else 3):
            began = time.perf_counter()
            ranked = ready.rank(dataset, rows)
            times.append(time.perf_counter() - began)
        ours[dtype] = float(np.median(times)), model.write(ready._generator, histories(dataset, rows)), ranked
        progress(f"our pass in {dtype}: {len(rows)} rows in {ours[dtype][0]:.2f} s")
    seconds, own, ranked = ours["fp32"]
    half_seconds, half, half_ranked = ours["bf16"]
    peak = matrix_rate()
    return {
        "speedup": round(plain_seconds / seconds, 2),
        "same_text": round(agreement(own, texts), 4),
        "distinct_texts": len(set(texts)),
        "same_top1": round(agreement(ranked.items[:, 0].tolist(), plain_items), 4),
        "rows_per_second": round(len(rows) / seconds, 2),
        "published_rows_per_second": round(len(rows) / plain_seconds, 2),
        "bf16_speedup": round(seconds / half_seconds, 2),
        "bf16_same_text": round(agreement(half, own), 4),
        "bf16_same_top1": round(agreement(half_ranked.items[:, 0].tolist(), ranked.items[:, 0].tolist()), 4),
        "gflop_per_row": round(operations["all"] / len(rows) / 1e9, 3),
        "prefill_share": round(operations["prefill"] / operations["all"], 3),
        "flop_share": round(operations["all"] / seconds / peak, 3),
        "matrix_gflops": round(peak / 1e9, 1),
        "rows": len(rows),
    }


@torch.inference_mode()
def published(
    model: BIGRec, dataset: PreparedDataset, rows: np.ndarray, limit: float
) -> tuple[float, list[str], list[int]]:
    """BIGRec's own inference, until the time limit: seconds, texts up to the closing quote, and the nearest items."""
    prompts, lm = model.prompts, model.lm
    texts: list[str] = []
    nearest: list[int] = []
    began = time.perf_counter()
    for begin in range(0, len(rows), BATCH):
        chosen = [prompts.prefix + prompts.history(h) for h in histories(dataset, rows[begin : begin + BATCH])]
        width = max(map(len, chosen))
        ids = torch.tensor([[prompts.pad] * (width - len(tokens)) + tokens for tokens in chosen])
        mask = torch.tensor([[0] * (width - len(tokens)) + [1] * len(tokens) for tokens in chosen])
        written = lm.generate(
            ids,
            attention_mask=mask,
            num_beams=BEAMS,
            num_return_sequences=BEAMS,
            do_sample=False,
            max_new_tokens=NEW_TOKENS,
            eos_token_id=prompts.end,
            pad_token_id=prompts.pad,
        )
        for tokens in written[::BEAMS, width:].tolist():
            texts.append(prompts.text(tokens))
            vector = lm.base_model(torch.tensor([prompts.for_embedding(texts[-1])])).last_hidden_state[:, -1]
            distances = torch.cdist(vector - model.mean, model.items[1:])
            nearest.append(int(distances.argsort(dim=1)[0, 0]) + 1)
        if limit and time.perf_counter() - began > limit:
            break
    return time.perf_counter() - began, texts, nearest


def agreement(ours: Sequence[object], theirs: Sequence[object]) -> float:
    return sum(a == b for a, b in zip(ours, theirs, strict=True)) / len(theirs)


def count(model: BIGRec, dataset: PreparedDataset, rows: np.ndarray, generator: Any) -> dict[str, float]:
    """Operations of the matrix products of our pass: `all` of them, and those of reading prompts."""
    prompts = [model.prompts.history(history) for history in histories(dataset, rows)]
    result = {"all": 0.0, "prefill": 0.0}
    prefill = generator._prefill

    def counted(chosen: list[Sequence[int]]) -> Any:
        with FlopCounterMode(display=False) as counter:
            made = prefill(chosen)
        result["prefill"] += counter.get_total_flops()
        return made

    generator._prefill = counted
    with FlopCounterMode(display=False) as counter:
        generator.generate(prompts)
    del generator._prefill
    result["all"] = counter.get_total_flops()
    return result


def matrix_rate() -> float:
    """Operations a second of a product of two large fp32 matrices."""
    left, right = torch.randn(2, 1024, 1024)
    return 2 * 1024**3 / best_of(lambda: left @ right, 5)


def best_of(work: Callable[[], object], times: int) -> float:
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


@torch.inference_mode()
def hllm(dataset: PreparedDataset, options: Options) -> dict[str, Any]:
    torch.manual_seed(0)
    model = HLLM(HLLMConfig(), num_items=dataset.num_items).eval()
    model.text.normal_()
    rows = np.sort(np.concatenate([dataset.rows(split) for split in ("train", "valid", "test")]))
    rows = rows[: 200 if options.quick else 20_000]
    engine = TeacherEngine(model, "fp32")
    began = time.perf_counter()
    rank_rows(engine, dataset, rows, k=K, mask_history=False)
    windowed = time.perf_counter() - began
    alone = rows[:: max(1, len(rows) // (20 if options.quick else 500))]
    began = time.perf_counter()
    for row in alone:
        items, lengths = dataset.histories(np.array([row]))
        hidden = engine.hidden(torch.from_numpy(items[:, : lengths[0]]))[:, -1]
        (hidden @ engine.vectors.T).topk(K, dim=1)
    one = (time.perf_counter() - began) / len(alone)
    progress(f"HLLM: {len(rows) / windowed:,.0f} rows a second by windows, {1 / one:,.0f} one at a time")
    return {
        "hllm_speedup": round(one * len(rows) / windowed, 1),
        "hllm_rows_per_second": round(len(rows) / windowed, 1),
        "hllm_one_by_one_rows_per_second": round(1 / one, 1),
    }


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--storage", metavar="ROOT", help="as of the jobs (default: $RECSYS_STORAGE, else ./runs)")
    parser.add_argument("--name", default="demo", metavar="PROJECT", help="of the project (default: demo)")


if __name__ == "__main__":
    main(__doc__, body, arguments=arguments)
