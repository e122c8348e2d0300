"""MLflow behind one module: every step is a run, a run opened inside another is its child.

The default store is SQLite under the storage root; the first run makes its tables before any worker starts. A `Run`
is a small handle that travels to other processes (pickle), so that a Ray Train callback on the controller can log
metrics over time. Several nodes should write through a server (`tracking.uri: http://…`): SQLite does not like
network disks.

Nothing here may cost hours of training: only the outermost run must be able to start; whatever cannot be recorded
later is said in one line and the work goes on.
"""

import functools
import logging
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyarrow import fs

from recsys import storage
from recsys.config import configuration, digest
from recsys.errors import UserError

if TYPE_CHECKING:
    from mlflow import MlflowClient

WORK_TAG = "recsys.work"
PARENT_TAG = "mlflow.parentRunId"
_BATCH = 100
_METRICS_BATCH = 1000  # what MLflow takes at once
_LONGEST_VALUE = 6000


@configuration
class TrackingConfig:
    """Where runs are recorded.

    Attributes:
        uri: any MLflow server or store, or `none` to record nothing; default a SQLite store under the storage root,
            which must then be a file system.
        experiment: its name; default the project's name.
    """

    uri: str | None = None
    experiment: str | None = None


@dataclass(frozen=True)
class Run:
    """A handle on one MLflow run, usable from any process that reaches the store.

    Attributes:
        uri: the tracking store; empty for a run that is recorded nowhere.
        id: MLflow's run id.
    """

    uri: str = ""
    id: str = ""

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Record numbers, at a step where they form a curve. Nested names are joined with dots, `@` becomes `_at_`.

        What is not a finite number is left out.
        """
        numbers = _numbers(metrics)

        def write() -> None:
            from mlflow.entities import Metric

            now = int(time.time() * 1000)
            for batch in _batches([Metric(name, value, now, step or 0) for name, value in numbers.items()]):
                self._client.log_batch(self.id, metrics=batch)

        self._record(f"{', '.join(numbers)}{'' if step is None else f' of step {step}'}", write)

    def log_curve(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Record what `log_metrics` would, for many steps at once; `epoch` of each record is its step."""

        def write() -> None:
            from mlflow.entities import Metric

            now = int(time.time() * 1000)
            points = [
                Metric(name, value, now, int(record["epoch"]))
                for record in records
                for name, value in _numbers(record).items()
                if name != "epoch"
            ]
            for batch in _batches(points, _METRICS_BATCH):
                self._client.log_batch(self.id, metrics=batch)

        self._record("curve", write)

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Record settings; nested names are joined with dots. A value once recorded cannot be changed."""

        def write() -> None:
            from mlflow.entities import Param

            values = {name.replace("@", "_at_"): str(value) for name, value in _flatten(params).items()}
            for batch in _batches([Param(name, value[:_LONGEST_VALUE]) for name, value in values.items()]):
                self._client.log_batch(self.id, params=batch)

        self._record("parameters", write)

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        def write() -> None:
            from mlflow.entities import RunTag

            self._client.log_batch(self.id, tags=[RunTag(name, str(value)) for name, value in tags.items()])

        self._record("tags", write)

    def log_artifact(self, path: str | Path, folder: str | None = None) -> None:
        """Copy a local file, or the files of a local directory, into the run (under `folder`)."""

        def write() -> None:
            log = self._client.log_artifacts if Path(path).is_dir() else self._client.log_artifact
            log(self.id, str(path), folder)

        self._record(f"artefact {Path(path).name}", write)

    def log_file(self, uri: str, folder: str | None = None) -> None:
        """Copy a file of the storage into the run (under `folder`)."""
        system, path = storage.filesystem(uri)
        if isinstance(system, fs.LocalFileSystem):
            self.log_artifact(path, folder)
        elif self.uri:
            with tempfile.TemporaryDirectory() as directory:
                local = Path(directory, Path(path).name)
                fs.copy_files(path, str(local), source_filesystem=system, destination_filesystem=fs.LocalFileSystem())
                self.log_artifact(local, folder)

    def register(self, path: str | Path, model: str, content: str) -> None:
        """Copy a checkpoint's directory into the run and make it the newest version of a registered model.

        Args:
            content: hash of the checkpoint; what is registered already from this run is not registered again.
        """

        def write() -> None:
            from mlflow.exceptions import MlflowException

            known = self._client.search_model_versions(f"run_id = '{self.id}'")
            if any((version.name, version.tags.get("checkpoint")) == (model, content) for version in known):
                return
            folder = f"model-{content[:12]}"
            self._client.log_artifacts(self.id, str(path), folder)
            try:
                self._client.create_registered_model(model)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            source = f"runs:/{self.id}/{folder}"
            self._client.create_model_version(model, source=source, run_id=self.id, tags={"checkpoint": content})

        self._record(f"model {model}", write)

    @property
    def _client(self) -> "MlflowClient":
        return _client(self.uri)

    def finish(self, status: str) -> None:
        """Record how it ended: FINISHED, FAILED or KILLED."""
        self._record(f"end of the run ({status})", lambda: self._client.set_terminated(self.id, status))

    def _record(self, what: str, write: Callable[[], None]) -> None:
        if not self.uri:
            return
        from mlflow.exceptions import MlflowException

        try:
            write()
        except (MlflowException, OSError) as error:
            print(f"tracking: {what} not recorded in {self.uri}: {_one_line(error)}", flush=True)


class _Pending:
    """A run that is opened when the first inside it starts."""

    def __init__(self, start: Callable[[], Run]) -> None:
        self._start = start
        self.run: Run | None = None

    def open(self) -> Run:
        self.run = self.run or self._start()
        return self.run


_ACTIVE: ContextVar[Run | _Pending | None] = ContextVar("active_run", default=None)


@contextmanager
def start_run(
    config: TrackingConfig,
    store: str,
    project: str,
    step: str,
    *,
    id: str = "",
    params: Mapping[str, Any] | None = None,
    tags: Mapping[str, Any] | None = None,
) -> Iterator[Run]:
    """Record the work inside the block as one run; inside another block of this process it is that run's child.

    A run of the same step, parameters and tags that did not finish (it was killed or failed) is continued, so that
    resumed work is one run.

    Args:
        store: URI of the directory of the default store (`Layout.mlflow`).
        project: name of the experiment where the configuration names none.
        step: name of the run.
        id: of a run that was started before and is to be continued, whatever became of it.

    Raises:
        UserError: the outermost run cannot be started; a child that cannot is said in one line and not recorded.
    """
    run = _start(config, store, project, step, params or {}, tags or {}, _parent(), id)
    with _active(run, lambda: run):
        yield run


@contextmanager
def group(
    config: TrackingConfig,
    store: str,
    project: str,
    step: str,
    *,
    params: Mapping[str, Any] | None = None,
    tags: Mapping[str, Any] | None = None,
) -> Iterator[None]:
    """Make the runs that start inside the block children of one run, which is recorded only if there are any.

    Raises:
        UserError: as `start_run`, when the first child starts.
    """
    pending = _Pending(lambda: _start(config, store, project, step, params or {}, tags or {}, None))
    with _active(pending, lambda: pending.run):
        yield


def start_child(
    config: TrackingConfig,
    store: str,
    project: str,
    step: str,
    *,
    parent: Run,
    id: str = "",
    params: Mapping[str, Any] | None = None,
    tags: Mapping[str, Any] | None = None,
) -> Run:
    """A run beside others under `parent`, for work that goes on in other processes; the caller says `finish`.

    As in `start_run` work that did not finish is continued; a run that cannot be started is said and not recorded.

    Args:
        id: of a run that was started before and is to be continued, whatever became of it.
    """
    return _start(config, store, project, step, params or {}, tags or {}, parent, id)


@contextmanager
def _active(entry: Run | _Pending, opened: Callable[[], Run | None]) -> Iterator[None]:
    """Let runs started inside the block know their parent, and record how the block ended."""
    token = _ACTIVE.set(entry)
    status = "FAILED"
    try:
        yield
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        _ACTIVE.reset(token)
        if (run := opened()) is not None:
            run.finish(status)


def _parent() -> Run | None:
    active = _ACTIVE.get()
    return active.open() if isinstance(active, _Pending) else active


def _start(
    config: TrackingConfig,
    store: str,
    project: str,
    step: str,
    params: Mapping[str, Any],
    tags: Mapping[str, Any],
    outer: Run | None,
    id: str = "",
) -> Run:
    if (config.uri or "").lower() == "none" or (outer is not None and not outer.uri):
        return Run()
    from mlflow.exceptions import MlflowException

    uri, artifacts = _location(config, store)
    try:
        if id and (run := _reopen(uri, id)):
            return run
        return _open(uri, artifacts, config.experiment or project, step, params, tags, outer)
    except (MlflowException, OSError) as error:
        problem = f"MLflow store {uri} cannot be used: {_one_line(error)}"
        if outer is None:
            raise UserError(f"{problem}; mend tracking.uri, or set it to none to record nothing") from None
        print(f"tracking: {step} is not recorded; {problem}", flush=True)
        return Run()


def describe(config: TrackingConfig, store: str) -> str:
    """The tracking URI that `start_run` uses.

    Raises:
        UserError: there is no default for a remote storage root.
    """
    return "none" if (config.uri or "").lower() == "none" else _location(config, store)[0]


def _location(config: TrackingConfig, store: str) -> tuple[str, str | None]:
    """The tracking URI, and where artefacts go (None: the server decides)."""
    if config.uri and not config.uri.startswith("sqlite:"):
        return config.uri, None
    if config.uri:
        # MLflow's own default would be ./mlruns, and a job's own folder vanishes.
        folder = Path(config.uri.removeprefix("sqlite:///")).absolute().parent
        return config.uri, (folder / "artifacts").as_uri()
    if "://" in store and not store.startswith("file:"):
        raise UserError(
            f"storage {store} is remote and cannot hold the SQLite store of MLflow; "
            "set tracking.uri to an MLflow server, or to none to record nothing"
        )
    _, path = storage.filesystem(store)
    Path(path).mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{path}/mlflow.db", Path(path, "artifacts").as_uri()


def _open(
    uri: str,
    artifacts: str | None,
    experiment: str,
    step: str,
    params: Mapping[str, Any],
    tags: Mapping[str, Any],
    outer: Run | None,
) -> Run:
    client = _client(uri)
    experiment_id = _experiment(client, experiment, artifacts)
    work = digest({"step": step, "params": dict(params), "tags": dict(tags)})
    unfinished = client.search_runs(
        [experiment_id], f"tags.`{WORK_TAG}` = '{work}' and attributes.status != 'FINISHED'", max_results=1
    )
    parent = {PARENT_TAG: outer.id} if outer else {}
    if unfinished:
        run = Run(uri, unfinished[0].info.run_id)
        client.update_run(run.id, status="RUNNING")
        run.set_tags({"recsys.continued": "true", **parent})
        return run
    created = client.create_run(
        experiment_id, run_name=step, tags={**{k: str(v) for k, v in tags.items()}, WORK_TAG: work, **parent}
    )
    run = Run(uri, created.info.run_id)
    run.log_params(params)
    return run


def _reopen(uri: str, id: str) -> Run | None:
    """The run of that id, or None where the store has none."""
    from mlflow.exceptions import MlflowException

    try:
        _client(uri).update_run(id, status="RUNNING")
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise
    return Run(uri, id)


def _experiment(client: "MlflowClient", name: str, artifacts: str | None) -> str:
    from mlflow.exceptions import MlflowException

    known = client.get_experiment_by_name(name)
    if known is None:
        try:
            return client.create_experiment(name, artifact_location=artifacts and f"{artifacts}/{name}")
        except MlflowException:
            known = client.get_experiment_by_name(name)  # another job made it meanwhile
            if known is None:
                raise
    return known.experiment_id


@functools.lru_cache(maxsize=8)
def _client(uri: str) -> "MlflowClient":
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # A server that is away must not hold training for the minutes of MLflow's defaults.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    for noisy in ("alembic", "mlflow"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    return {
        name.replace("@", "_at_"): float(value)
        for name, value in _flatten(metrics).items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }


def _batches(entries: list[Any], size: int = _BATCH) -> Iterator[list[Any]]:
    for start in range(0, len(entries), size):
        yield entries[start : start + size]


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
