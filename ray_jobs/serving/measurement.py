"""The measurement of the arms against each other: real test histories replayed over HTTP.

Every history goes to every arm over kept-alive connections; the arms take short turns in random order, so that drift
of the machine hits all alike. Then, where the settings name rates or numbers of connections, each is put on every arm
(`recsys.serving.load`). The figures go to `<storage>/<name>/results/ab.json`, a page of them beside it.
"""

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx

from ray_jobs.serving import application
from recsys import environment, storage, tracking
from recsys.config import digest, key_values, to_dict
from recsys.data.prepared import PreparedDataset
from recsys.errors import UserError
from recsys.evaluation.ab_report import write_ab_report
from recsys.serving.assignment import Arm, order_arms
from recsys.serving.load import GRID, Objective, describe_distribution, measure_load, start_clients
from recsys.serving.measure import ratios, replay, sample_histories, summary, wait_until_ready
from recsys.serving.service import dataset_identity
from recsys.settings import Settings
from recsys.stages.quality import find_quality

K = 10
_SERVERS = (b"ray::ServeReplica:" + application.APPLICATION.encode(), b"ray::ProxyActor", b"haproxy")
"""How the command lines of the processes begin that answer requests."""


def key(settings: Settings) -> str:
    """Digest of what the figures depend on: serving configuration, dataset and the served checkpoints.

    Raises:
        UserError: one of them is not there, or they do not belong together.
    """
    checkpoints = {arm: facts["hash"] for arm, facts in application.inspect_arms(settings).items()}
    return digest(
        {
            "serving": key_values(settings.serving),
            "checkpoints": checkpoints,
            "dataset": dataset_identity(settings.layout.dataset),
        }
    )


def run(settings: Settings, *, force: bool = False, address: str | None = None) -> dict[str, Any]:
    """Measure unless it was done before, print and store the figures, and return them.

    Args:
        address: URL of a running server; such a measurement is always made.
    """
    uri, work = storage.join(settings.layout.results, "ab.json"), key(settings)
    stored = storage.read_json_if_whole(uri)
    if not force and address is None and isinstance(stored, dict) and stored.get("key") == work:
        print("a/b: unchanged, kept", flush=True)
        print_figures(stored)
        return stored
    with tracking.start_run(
        settings.tracking, settings.layout.mlflow, settings.name, "measure_ab", params=to_dict(settings.serving)
    ) as record:
        dataset = PreparedDataset.load(settings.layout.dataset)
        with _server(settings, address) as (url, health):
            if health["dataset"]["fingerprint"] != dataset.fingerprint:
                raise UserError(
                    f"the server at {url} serves dataset {health['dataset']['name']!r} "
                    f"({health['dataset']['fingerprint'][:12]}), not {dataset.name!r} ({dataset.fingerprint[:12]})"
                )
            # What was measured elsewhere does not stand for what would be measured here.
            figures = {"key": work if address is None else None, **_measure(settings, dataset, url, health)}
        storage.write_json(uri, figures)
        record.log_metrics({"arms": figures["arms"], **figures["ratios"]})
        record.set_tags({"dataset": dataset.fingerprint})
        with TemporaryDirectory() as folder:
            storage.write_json(f"{folder}/ab.json", figures)
            write_ab_report(Path(folder), figures, settings.name, settings.serving.measure_core_hour)
            for path in sorted(Path(folder).iterdir()):
                record.log_artifact(path)
                if path.suffix == ".html":
                    storage.write_bytes(storage.join(settings.layout.results, path.name), path.read_bytes())
    print_figures(figures)
    print(f"a/b: {uri}, {storage.join(settings.layout.results, 'ab_report.html')}", flush=True)
    return figures


def print_figures(figures: dict[str, Any]) -> None:
    """The table and the ratios."""
    width = max(9, *(len(arm) + 1 for arm in figures["arms"]))
    quality = figures.get("quality", {})
    print(
        f"{'':{width}}{'requests':>9}{'errors':>8}{'p50':>10}{'p95':>10}{'p99':>10}"
        f"{'model p50':>12}{'model p99':>12}  (ms)" + (f"{'NDCG@10':>10}" if quality else "")
    )
    for arm, row in figures["arms"].items():
        times = [row["p50_ms"], row["p95_ms"], row["p99_ms"]]
        model = [row["model_p50_ms"], row["model_p99_ms"]]
        print(
            f"{arm:{width}}{row['requests']:9d}{row['errors']:8d}"
            + "".join(f"{t:10.2f}" for t in times)
            + "".join(f"{t:12.2f}" for t in model)
            + (f"{quality[arm]:16.4f}" if arm in quality else "")
        )
    said = {
        "teacher_over_student": "teacher / student, end-to-end {:.2f}",
        "teacher_over_student_model_time": "teacher / student, model time {:.2f}",
        "student_minus_null_ms": "student − null {:.2f} ms",
    }
    print("; ".join(text.format(figures["ratios"][name]) for name, text in said.items() if name in figures["ratios"]))
    for name, text in (("open_loop", "requests a second"), ("closed_loop", "connections")):
        if name in (load := figures.get("load", {})):
            kept = ", ".join(f"{arm} {'none' if n is None else f'{n:g}'}" for arm, n in load[name]["highest"].items())
            late = any(row["client"]["saturated"] for rows in load[name]["arms"].values() for row in rows)
            print(
                f"most {text} with p99 ≤ {load['objective']['p99_ms']:g} ms and < 1 % unanswered: {kept}"
                + ("; clients were late themselves, so that it may be more" if late else "")
            )
    conditions = figures["conditions"]
    print(
        f"medians over {conditions['requests']} test histories, {conditions['concurrency']} connection(s), "
        f"proxy {conditions['proxy']}, {conditions['hardware']['cores']} cores",
        flush=True,
    )


def _measure(settings: Settings, dataset: PreparedDataset, url: str, health: dict[str, Any]) -> dict[str, Any]:
    config = settings.serving
    arms = order_arms(health["arms"])
    if config.measure_warmup:
        warmup = sample_histories(dataset, config.measure_warmup, seed=1)
        replay(url, warmup, arms, k=K, concurrency=config.measure_concurrency)
    histories = sample_histories(dataset, config.measure_requests)
    replayed = replay(url, histories, arms, k=K, concurrency=config.measure_concurrency, report=_progress())
    measured = summary([replayed])
    for arm, row in measured.items():
        if row["errors"] == row["requests"]:
            kinds = ", ".join(f"{kind}: {count}" for kind, count in row["error_kinds"].items())
            raise UserError(f"the {arm} arm at {url} answered none of {row['requests']} requests ({kinds})")
        assert all(math.isfinite(value) for value in row.values() if isinstance(value, float))
    answered = {arm: [s.seconds * 1000 for s in replayed.samples if s.arm == arm and s.error is None] for arm in arms}
    loaded = _put_load(settings, dataset, url, arms) if config.measure_rates or config.measure_connections else None
    return {
        "arms": measured,
        "ratios": ratios(measured),
        "distribution": {
            "levels": GRID.tolist(),
            "arms": {arm: describe_distribution(milliseconds) for arm, milliseconds in answered.items()},
        },
        **({"load": loaded} if loaded else {}),
        "quality": find_quality(settings, {arm: health["arms"][arm].get("checkpoint") for arm in arms}),
        "served": health["arms"],
        "dataset": health["dataset"],
        "conditions": {
            "url": url,
            "k": K,
            "mask_seen": True,
            "requests": config.measure_requests,
            "warmup": config.measure_warmup,
            "concurrency": config.measure_concurrency,
            "proxy": application.proxy_name(config),
            "client": "httpx, one process, kept-alive connections, arms in turns",
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "versions": environment.versions(),
            "hardware": environment.hardware(),
        },
    }


def _put_load(settings: Settings, dataset: PreparedDataset, url: str, arms: list[Arm]) -> dict[str, Any]:
    config = settings.serving
    objective = Objective(p99_ms=config.measure_p99_ms)
    with start_clients(config.measure_clients, k=K, timeout=config.measure_timeout) as clients:
        measured = measure_load(
            clients,
            url,
            arms,
            sample_histories(dataset, 1000, seed=2),
            rates=config.measure_rates,
            connections=config.measure_connections,
            settle=config.measure_settle,
            seconds=config.measure_seconds,
            objective=objective,
            cpu=count_cpu_seconds,
            report=lambda text: print(f"a/b: {text}", flush=True),
        )
    return {
        **measured,
        "objective": {"p99_ms": objective.p99_ms, "failed": objective.failed},
        "seconds": config.measure_seconds,
        "settle": config.measure_settle,
        "timeout": config.measure_timeout,
        "clients": config.measure_clients,
    }


def count_cpu_seconds() -> dict[str, float]:
    """What each of the replicas and proxies on this machine has computed since it began."""
    seconds = {}
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            if (process / "cmdline").read_bytes().startswith(_SERVERS):
                fields = (process / "stat").read_text().rpartition(")")[2].split()
                ticks = int(fields[11]) + int(fields[12])
                seconds[f"{process.name} {fields[19]}"] = ticks / os.sysconf("SC_CLK_TCK")  # with its start: ids return
    return seconds


@contextlib.contextmanager
def _server(settings: Settings, address: str | None) -> Iterator[tuple[str, dict[str, Any]]]:
    """URL and health of the server to measure; one that had to be started here ends here."""
    if address is not None:
        url = address.rstrip("/")
        yield url, wait_until_ready(url, 10)
        return
    url = application.url(settings)
    if (health := _health(url)) is not None:
        if not application.is_this(settings, health):
            raise UserError(
                f"a server at {url} serves something else; stop it, choose another serving.port, or measure it "
                f"with --address {url}"
            )
        print(f"a/b: measuring the server that runs at {url}", flush=True)
        yield url, health
        return
    print(f"a/b: deploying {', '.join(settings.serving.served)} at {url}", flush=True)
    application.deploy(settings)
    try:
        yield url, wait_until_ready(url, 10)
    finally:
        application.undeploy()


def _health(url: str) -> dict[str, Any] | None:
    """What a server at `url` says of itself, None where none of ours answers."""
    try:
        answer = httpx.get(f"{url}/health", trust_env=False, timeout=5)
        said = answer.json() if answer.status_code == 200 else None
    except (httpx.HTTPError, ValueError):
        return None
    return said if isinstance(said, dict) and "arms" in said else None


def _progress() -> Callable[[int, int], None]:
    said = time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal said
        if time.monotonic() - said > 4:
            said = time.monotonic()
            print(f"a/b: {done} of {total} requests", flush=True)

    return report
