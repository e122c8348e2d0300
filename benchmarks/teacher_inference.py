"""Rows per second of the teacher passes against the plain procedures they replace, same checkpoint, same rows, one run.

    python benchmarks/teacher_inference.py [--quick] [--minutes N] [--data-dir D]

BIGRec: the published procedure is transformers' `generate` (4 beams, left-padded batches of 8 in file order, 128 new
tokens, stop at the end of the text), then one pass of the language model for each text and its distances to the whole
catalogue. Ours is `BIGRec.ready(…).rank(…)`, with the same beams, in fp32 like the published side; its gain in bf16 is
a figure of its own. Both read MovieLens 100K (data set `ml-100k` of --data-dir, or what `make demo` prepared); the
language model is made from scratch and trained here for a third of the time limit: after a few steps nearly all of its
texts close with a quotation mark (`closed`), but histories get the same few (`distinct_texts`), whose scores are so
close that rounding decides among the beams.

HLLM and E4SRec, with random weights because only time is asked for: causal passes over windows against one row at a
time.

`flop_share`, `hllm_flop_share`, `e4srec_flop_share`: the share that a pass reaches of the rate of one large matrix
product on the same threads. The limit is the processor's arithmetic; of BIGRec's operations `prefill_share` are reading
prompts.

`million_…`: what an actor that ranks a million items, 384 wide, takes of memory.
"""

import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import FIXTURE, Options, PeakMemory, add_project_arguments, main, progress, scratch
from torch.utils.flop_counter import FlopCounterMode

from recsys.checkpoint import load_checkpoint, save_checkpoint
from recsys.data.config import DataConfig
from recsys.data.prepare import prepare
from recsys.data.prepared import Catalogue, PreparedDataset
from recsys.histories import Histories
from recsys.inference.engine import TeacherEngine
from recsys.inference.ranking import WindowPass, rank_rows
from recsys.inference.replica import WholeReplica
from recsys.settings import Settings
from recsys.signals.config import SignalsConfig
from recsys.signals.rankings import Rankings
from recsys.teacher import Teacher
from recsys.teachers.bigrec.bigrec import BIGRec, TitlePass
from recsys.teachers.bigrec.config import BIGRecConfig
from recsys.teachers.bigrec.language_model import without_adapters
from recsys.teachers.config import E4SRecConfig, HLLMConfig
from recsys.teachers.e4srec import E4SRec
from recsys.teachers.hllm import HLLM
from recsys.training.config import TrainingConfig
from recsys.training.engine import build_engine

BEAMS, BATCH, NEW_TOKENS, K = 4, 8, 128, 20
WIDTH = 384
_actor: list[tuple[TitlePass, PreparedDataset]] = []


def body(options: Options) -> dict[str, Any]:
    load = os.getloadavg()[0]
    with scratch() as folder, PeakMemory() as memory:
        dataset = load_data(options)
        model, closed = train(dataset, folder, options)
        # Before the engines convert the model in place.
        actors = {} if options.quick else time_two_actors(model, dataset, folder)
        peak = measure_matrix_rate()
        figures = {"closed": closed, **measure_bigrec(model, dataset, options, peak)}
        figures |= measure_window_teachers(dataset, options, peak)
    with scratch() as folder:
        figures |= measure_large_catalogue(folder, options)
    return {
        **figures,
        **actors,
        "load_at_start": round(load, 2),
        "load_at_end": round(os.getloadavg()[0], 2),
        "rows_in_data": len(dataset.rows("train")) + len(dataset.rows("valid")) + len(dataset.rows("test")),
        "items": dataset.num_items,
        "parameters": sum(parameter.numel() for parameter in model.lm.parameters()),
        "threads": torch.get_num_threads(),
        "peak_gb": round(memory.gb, 3),
    }


def load_data(options: Options) -> PreparedDataset:
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
    sample = list_histories(dataset, dataset.sample("valid", 64, seed=1))
    steps = 0
    for batch, total in (step for epoch in range(100) for step in batches.epoch(epoch)):
        loss = engine.step(batch, total, 4e-3 if options.quick else 2e-3)["loss"]
        steps += 1
        if steps % 100 and time.monotonic() < until:
            continue
        model.eval()
        closed = measure_closed_share(model, sample)
        progress(f"training: {steps} steps, loss {float(loss):.2f}, {closed:.0%} of texts close")
        if time.monotonic() >= until:
            break
        model.train()
    model.embed_titles()
    return model, round(measure_closed_share(model, list_histories(dataset, dataset.rows("test"))[:256]), 4)


def list_histories(dataset: PreparedDataset, rows: np.ndarray) -> list[list[int]]:
    return [dataset.seen(int(row))[-dataset.max_history :].tolist() for row in rows]


def measure_closed_share(model: BIGRec, chosen: list[list[int]]) -> float:
    """The share of greedy texts that end with a closing quotation mark."""
    prompts = [model.prompts.history(history) for history in chosen]
    written = model.generator(model.lm).generate(prompts)
    return sum(tokens[-1] in model.prompts.closing for tokens in written) / len(written)


def time_two_actors(model: BIGRec, dataset: PreparedDataset, folder: str) -> dict[str, Any]:
    """Time of two processes, one thread each, for the rows of one, after their start: they share nothing but disk.

    Each way is taken three times by turns and its shortest time counts, for others may be at work on the machine; what
    share of a core each process got in that time is reported as well.
    """
    dataset.write(f"{folder}/dataset")
    save_checkpoint(f"{folder}/teacher", model, dataset)
    rows = dataset.rows("test")[:512]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, context, initializer=start_actor, initargs=(folder,)) as actors:
        list(actors.map(act, [rows[:64]] * 2))
        one, two = [], []
        for _ in range(3):
            for times, parts in ((one, [rows]), (two, [rows[::2], rows[1::2]])):
                began = time.perf_counter()
                busy = sum(actors.map(act, parts)) / len(parts)
                seconds = time.perf_counter() - began
                times.append((seconds, busy / seconds))
    progress(f"{len(rows)} rows: one process {min(one)[0]:.1f} s, two {min(two)[0]:.1f} s")
    return {
        "two_actor_time_ratio": round(min(two)[0] / min(one)[0], 3),
        "one_actor_core_share": round(min(one)[1], 2),
        "two_actors_core_share": round(min(two)[1], 2),
    }


def start_actor(folder: str) -> None:
    """In a process of its own: what an actor of the teacher pass holds."""
    torch.set_num_threads(1)
    dataset = PreparedDataset.load(f"{folder}/dataset")
    model = load_checkpoint(f"{folder}/teacher").model
    assert isinstance(model, BIGRec)
    _actor.append((model.ready(SignalsConfig(k=K, dtype="fp32"), "cpu"), dataset))


def act(rows: np.ndarray) -> float:
    """Seconds of a core that the rows took."""
    ready, dataset = _actor[0]
    began = time.process_time()
    ready.rank(dataset, rows)
    return time.process_time() - began


def measure_bigrec(model: BIGRec, dataset: PreparedDataset, options: Options, peak: float) -> dict[str, Any]:
    rows = dataset.rows("test")[: 24 if options.quick else 512]
    limit = 0 if options.quick else options.seconds_left / 2
    plain_seconds, texts, plain_items = run_published(model, dataset, rows, limit)
    rows = rows[: len(texts)]
    progress(f"published procedure: {len(rows)} rows in {plain_seconds:.1f} s")
    ours: dict[str, tuple[float, list[str], Rankings]] = {}
    operations: dict[str, float] = {}
    # bf16 last: an engine converts its model in place.
    for dtype in ("fp32", "bf16"):
        ready = model.ready(SignalsConfig(k=K, dtype=dtype, mask_history=False), "cpu")
        if dtype == "fp32":
            operations = count_operations(model, dataset, rows, ready._generator)
        times = []
        for _ in range(1 if options.quick else 3):
            began = time.perf_counter()
            ranked = ready.rank(dataset, rows)
            times.append(time.perf_counter() - began)
        ours[dtype] = float(np.median(times)), model.write(ready._generator, list_histories(dataset, rows)), ranked
        progress(f"our pass in {dtype}: {len(rows)} rows in {ours[dtype][0]:.2f} s")
    seconds, own, ranked = ours["fp32"]
    half_seconds, half, half_ranked = ours["bf16"]
    return {
        "speedup": round(plain_seconds / seconds, 2),
        "same_text": round(compute_agreement(own, texts), 4),
        "distinct_texts": len(set(texts)),
        "same_top1": round(compute_agreement(ranked.items[:, 0].tolist(), plain_items), 4),
        "rows_per_second": round(len(rows) / seconds, 2),
        "published_rows_per_second": round(len(rows) / plain_seconds, 2),
        "bf16_speedup": round(seconds / half_seconds, 2),
        "bf16_same_text": round(compute_agreement(half, own), 4),
        "bf16_same_top1": round(compute_agreement(half_ranked.items[:, 0].tolist(), ranked.items[:, 0].tolist()), 4),
        "gflop_per_row": round(operations["all"] / len(rows) / 1e9, 3),
        "prefill_share": round(operations["prefill"] / operations["all"], 3),
        "flop_share": round(operations["all"] / seconds / peak, 3),
        "matrix_gflops": round(peak / 1e9, 1),
        "rows": len(rows),
    }


@torch.inference_mode()
def run_published(
    model: BIGRec, dataset: PreparedDataset, rows: np.ndarray, limit: float
) -> tuple[float, list[str], list[int]]:
    """BIGRec's own inference, until the time limit: seconds, texts up to the closing quote, and the nearest items."""
    prompts, lm = model.prompts, model.lm
    texts: list[str] = []
    nearest: list[int] = []
    began = time.perf_counter()
    for begin in range(0, len(rows), BATCH):
        chosen = [prompts.prefix + prompts.history(h) for h in list_histories(dataset, rows[begin : begin + BATCH])]
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
            with without_adapters(lm):  # as the titles of the catalogue were read
                vector = lm.base_model(torch.tensor([prompts.for_embedding(texts[-1])])).last_hidden_state[:, -1]
            distances = torch.cdist(vector - model.mean, model.items[1:])
            nearest.append(int(distances.argsort(dim=1)[0, 0]) + 1)
        if limit and time.perf_counter() - began > limit:
            break
    return time.perf_counter() - began, texts, nearest


def compute_agreement(ours: Sequence[object], theirs: Sequence[object]) -> float:
    return sum(a == b for a, b in zip(ours, theirs, strict=True)) / len(theirs)


def count_operations(model: BIGRec, dataset: PreparedDataset, rows: np.ndarray, generator: Any) -> dict[str, float]:
    """Operations of the matrix products of our pass: `all` of them, and those of reading prompts."""
    prompts = [model.prompts.history(history) for history in list_histories(dataset, rows)]
    result = {"all": 0.0, "prefill": 0.0}
    prefill = generator._prefill

    def count_prefill(chosen: list[Sequence[int]]) -> Any:
        with FlopCounterMode(display=False) as counter:
            made = prefill(chosen)
        result["prefill"] += counter.get_total_flops()
        return made

    generator._prefill = count_prefill
    with FlopCounterMode(display=False) as counter:
        generator.generate(prompts)
    del generator._prefill
    result["all"] = counter.get_total_flops()
    return result


def measure_matrix_rate() -> float:
    """Operations a second of a product of two large fp32 matrices."""
    left, right = torch.randn(2, 1024, 1024)
    return 2 * 1024**3 / time_best_of(lambda: left @ right, 5)


def time_best_of(work: Callable[[], object], times: int) -> float:
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def measure_window_teachers(dataset: PreparedDataset, options: Options, peak: float) -> dict[str, Any]:
    """The passes of HLLM and E4SRec, with the sizes that they have by default."""
    torch.manual_seed(0)
    hllm = HLLM(HLLMConfig(), num_items=dataset.num_items).eval()
    hllm.text.normal_()
    e4srec = E4SRec(E4SRecConfig(kind="e4srec"), num_items=dataset.num_items).eval()
    e4srec.ids[1:].normal_()
    return {**measure_windows(hllm, dataset, options, peak), **measure_windows(e4srec, dataset, options, peak)}


@torch.inference_mode()
def measure_windows(model: Teacher, dataset: PreparedDataset, options: Options, peak: float) -> dict[str, Any]:
    """Causal passes over windows of the sequences, against one row at a time."""
    rows = np.sort(np.concatenate([dataset.rows(split) for split in ("train", "valid", "test")]))
    rows = rows[: 200 if options.quick else 20_000]
    engine = TeacherEngine(model.requires_grad_(False), "fp32")
    seconds = time_best_of(lambda: rank_rows(engine, dataset, rows, k=K, mask_history=False), 1 if options.quick else 3)
    with FlopCounterMode(display=False) as counter:
        rank_rows(engine, dataset, rows, k=K, mask_history=False)
    alone = rows[:: max(1, len(rows) // (20 if options.quick else 500))]
    began = time.perf_counter()
    for row in alone:
        hidden = engine.hidden(Histories.of_rows(dataset, np.array([row])).trim())[:, -1]
        (hidden @ engine.vectors.T).topk(K, dim=1)
    one = (time.perf_counter() - began) / len(alone)
    kind = model.kind
    progress(f"{kind}: {len(rows) / seconds:,.0f} rows/s by windows, {1 / one:,.0f} one at a time")
    return {
        f"{kind}_speedup": round(one * len(rows) / seconds, 1),
        f"{kind}_rows_per_second": round(len(rows) / seconds, 1),
        f"{kind}_one_by_one_rows_per_second": round(1 / one, 1),
        f"{kind}_flop_share": round(counter.get_total_flops() / seconds / peak, 3),
    }


def measure_large_catalogue(folder: str, options: Options) -> dict[str, Any]:
    """Peak resident memory (GB) of a process that ranks a million items, 384 wide, with a small decoder:
    once loaded, and for more rows, larger batches and more items per row."""
    items = 2_000 if options.quick else 1_000_000
    generator = np.random.default_rng(0)
    users, length = (8, 12) if options.quick else (24, 50)
    total = np.arange(users + 1, dtype=np.int64) * length
    train = np.flatnonzero(np.arange(users * length) % length % (length - 1) != 0)
    dataset = PreparedDataset(
        name="large",
        source={},
        protocol="leave_one_out",
        max_history=length,
        catalogue=Catalogue(
            item_ids=["", *map(str, range(items))],
            titles=["", *(f"Title {item}" for item in range(items))],
            train_counts=np.ones(items + 1, dtype=np.int64),
        ),
        user_ids=[str(user) for user in range(users)],
        offsets=total,
        items=generator.integers(1, items + 1, users * length).astype(np.int32),
        timestamps=np.arange(users * length, dtype=np.int64),
        split_rows={"train": train, "valid": total[1:] - 2, "test": total[1:] - 1},
    )
    dataset.write(f"{folder}/large")
    model = E4SRec(E4SRecConfig(kind="e4srec", id_width=WIDTH, layers=2), num_items=items)
    model.ids[1:].normal_()
    save_checkpoint(f"{folder}/large-teacher", model, dataset)
    del model, dataset
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as child:
        peaks = child.submit(measure_peaks, folder).result()
    progress("a million items: " + ", ".join(f"{what} {value:.2f}" for what, value in peaks.items()))
    return {f"million_{what}": round(value, 2) for what, value in peaks.items()}


def measure_peaks(folder: str) -> dict[str, float]:
    """In a process of its own: what an actor of the teacher pass does."""
    torch.set_num_threads(1)
    found = {}

    def peak(what: str, work: Callable[[], object]) -> None:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        work()
        status = Path("/proc/self/status").read_text()
        found[f"{what}_gb"] = int(status.partition("VmHWM:")[2].split()[0]) / 1e6

    dataset = PreparedDataset.load(f"{folder}/large")
    rows, uri = dataset.rows("train"), f"{folder}/large-teacher"
    replica = WholeReplica(dataset, SignalsConfig(k=K, dtype="fp32", batch_size=32), "cpu")
    peak("loading", lambda: replica.load(uri))
    began = time.perf_counter()
    peak("few_rows", lambda: replica.rank(uri, rows[: len(rows) // 8]))
    found["rows_per_second"] = len(rows) // 8 / (time.perf_counter() - began)
    peak("many_rows", lambda: replica.rank(uri, rows[: len(rows) // 2]))
    for what, k, batch in (("large_batch", K, 128), ("large_k", 10 * K, 32)):
        config = SignalsConfig(k=k, dtype="fp32", batch_size=batch)
        wider = WindowPass.__new__(WindowPass)
        wider.__dict__ |= {**vars(replica._passes[uri]), "_config": config}
        peak(what, lambda: wider.rank(dataset, rows[: len(rows) // 8]))  # noqa: B023
    return found


if __name__ == "__main__":
    main(__doc__, body, arguments=add_project_arguments)
