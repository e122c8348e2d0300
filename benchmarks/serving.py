"""Latency and throughput of the served arms over HTTP, on what `make demo` left (or --storage, --name).

    python benchmarks/serving.py [--quick] [--minutes N] [--storage ROOT] [--name PROJECT]

Starts a local Ray of its own and the A/B application, and replays histories of test rows from client processes of
their own. `p50_ms`, `p99_ms` and `model_ms` are of one connection, arms in short turns; `rps_16` is what 16 kept-alive
connections of two processes get from one arm at a time. The null arm answers at once, so it shows what HTTP costs.
RAY_SERVE_ENABLE_HA_PROXY=1 measures with HAProxy. Client and server share the machine: `client_cores` says how many
cores the clients kept busy under 16 connections.
"""

import dataclasses
import multiprocessing
import os
import tempfile
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from harness import FIXTURE, Options, add_project_arguments, main, progress, scratch

from recsys.data.config import DataConfig
from recsys.data.prepared import PreparedDataset
from recsys.ports import free_port
from recsys.serving.assignment import Arm
from recsys.serving.config import ServingConfig
from recsys.serving.measure import Replay, ratios, replay, sample_histories, summary
from recsys.settings import Settings

CLIENTS, CONNECTIONS = 2, 8
ROUNDS = 5


def body(options: Options) -> dict[str, Any]:
    with scratch() as folder:
        if options.quick:
            settings = make_random_project(folder)
        else:
            settings = Settings(name=options.args.name, storage=options.args.storage)
        serving = dataclasses.replace(settings.serving, port=free_port())
        return measure(dataclasses.replace(settings, serving=serving), options)


def measure(settings: Settings, options: Options) -> dict[str, Any]:
    # Unix sockets below it may have 107 characters.
    with tempfile.TemporaryDirectory(prefix="rb-", ignore_cleanup_errors=True) as temporary:
        os.environ["RAY_TMPDIR"] = temporary
        import ray

        from ray_jobs.serving import application as serve

        serve.check(settings)
        dataset = PreparedDataset.load(settings.layout.dataset)
        progress("starting Ray and the application")
        try:
            url = serve.deploy(settings)
            facts = {
                arm: {**facts, "dataset": facts["dataset"]["name"]}
                for arm, facts in serve.inspect_arms(settings).items()
            }
            with ProcessPoolExecutor(CLIENTS, multiprocessing.get_context("spawn")) as clients:
                figures = measure_arms(url, dataset, settings.serving.served, clients, options)
            return {**figures, "proxy": serve.proxy_name(settings.serving), "served": facts, "items": dataset.num_items}
        finally:
            ray.shutdown()


def measure_arms(
    url: str, dataset: PreparedDataset, arms: tuple[Arm, ...], clients: ProcessPoolExecutor, options: Options
) -> dict[str, Any]:
    one, many = (5, 20) if options.quick else (100, 400)
    clients.submit(replay, url, sample_histories(dataset, one, seed=1), arms).result()
    alone: list[Replay] = []
    rates: dict[Arm, list[float]] = {arm: [] for arm in arms}
    busy = []
    for number in range(1 if options.quick else ROUNDS):
        if number and options.seconds_left < 30:
            break
        progress(f"round {number + 1}: one connection, {one} histories to each arm")
        alone.append(
            clients.submit(replay, url, sample_histories(dataset, one, seed=number), arms, seed=number).result()
        )
        histories = sample_histories(dataset, many, seed=number)
        for arm in arms:
            progress(f"round {number + 1}: {CLIENTS * CONNECTIONS} connections, {arm}")
            parts = [
                clients.submit(replay, url, histories[client::CLIENTS], [arm], concurrency=CONNECTIONS)
                for client in range(CLIENTS)
            ]
            done = [part.result() for part in parts]
            seconds = max(result.seconds[arm] for result in done)
            rates[arm].append(sum(sample.error is None for result in done for sample in result.samples) / seconds)
            busy.append(sum(result.cpu for result in done) / seconds)
    measured = summary(alone)
    of_arms = {
        arm: {
            "p50_ms": round(row["p50_ms"], 3),
            "p99_ms": round(row["p99_ms"], 3),
            "rps_16": round(sum(rates[arm]) / len(rates[arm]), 1),
            "model_ms": round(row["model_p50_ms"], 3),
            "errors": row["errors"],
        }
        for arm, row in measured.items()
    }
    wanted = ("student_minus_null_ms", "student_over_null_p50", "teacher_over_student_model_time")
    compared = ratios(measured)
    return {
        **of_arms,
        **{name: round(compared[name], 3) for name in wanted},
        "client_cores": round(sum(busy) / len(busy), 2),
        "requests": measured[arms[0]]["requests"],
    }


def make_random_project(folder: str) -> Settings:
    """The tiny data set, and random-initialised models for which nothing but PyTorch must be loaded."""
    from recsys.checkpoint import save_checkpoint
    from recsys.data.prepare import prepare
    from recsys.students.config import SASRecConfig
    from recsys.students.sasrec import SASRec

    settings = Settings(name="quick", storage=folder, serving=ServingConfig(student="small"))
    dataset = prepare(DataConfig(path=str(FIXTURE)), "quick", report=lambda _: None)
    dataset.write(settings.layout.dataset)
    for uri, blocks in ((settings.layout.teacher, 4), (settings.layout.student("small"), 1)):
        save_checkpoint(uri, SASRec(SASRecConfig(blocks=blocks), num_items=dataset.num_items), dataset)
    return settings


if __name__ == "__main__":
    main(__doc__, body, arguments=add_project_arguments)
