"""MLflow behind one module: every step is a run, a run opened inside another is its child.

The default store is SQLite under the storage root; the first run makes its tables before any worker starts. A `Run`
is a small handle that travels to other processes (pickle), so that a Ray Train callback on the controller can log
metrics over time. Several nodes should write through a server (`tracking.uri: http://…`): SQLite does not like
network disks.

Nothing here may cost hours of training: only the outermost run must be able to start; whatever cannot be recorded
later is said in one line and the work goes on. A store that is away (locked, damaged, its disk full, a server that does
not answer) is waited for a few seconds, said once, and asked again a minute later. Settings, numbers and tags are kept
meanwhile and sent when it answers, at the latest at the end of the run; files and further runs are not recorded.

A run says which process works on it. One that ends by Ctrl-C, SIGTERM or an exit of its own is KILLED. What SIGKILL
left RUNNING is continued by the same work, and closed by the next job of the project on that machine. (Of processes of
another machine nothing is known: their runs stay RUNNING until the same work is done again.)
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from recsys import storage, tracking_store
from recsys.config import configuration
from recsys.errors import UserError
from recsys.secrets import mask
from recsys.tracking_run import Run
from recsys.tracking_store import PARENT_TAG, WORK_TAG

__all__ = ["PARENT_TAG", "WORK_TAG", "Run", "TrackingConfig", "describe", "group", "start_child", "start_run"]


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

    def __post_init__(self) -> None:
        if self.uri == "":
            raise ValueError("uri is empty; name a server or store, or none to record nothing")
        if self.experiment in ("", ".", ".."):
            raise ValueError(f"experiment {self.experiment!r} cannot be the name of a folder; choose another")


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
    outermost = _ACTIVE.get() is None
    token = _ACTIVE.set(entry)
    status = "FAILED"
    try:
        yield
        status = "FINISHED"
    except (KeyboardInterrupt, SystemExit):
        status = "KILLED"
        raise
    finally:
        _ACTIVE.reset(token)
        if (run := opened()) is not None:
            run.finish(status)
            if outermost:
                tracking_store.give_up(run.uri)


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
    uri, artifacts = _location(config, store)
    if outer is not None and tracking_store.is_away(uri):
        return Run()
    try:
        if id and tracking_store.reopen(uri, id):
            return Run(uri, id)
        name, parent = config.experiment or project, outer.id if outer else ""
        found, new = tracking_store.start(uri, artifacts, name, step, params, tags, parent)
    except Exception as error:  # of MLflow, SQLAlchemy, sqlite3, requests
        if outer is None:
            problem = f"MLflow store {mask(uri)} cannot be used: {tracking_store.reason(error)}"
            raise UserError(f"{problem}; mend tracking.uri, or set it to none to record nothing") from None
        tracking_store.say(uri, step, error)
        return Run()
    run = Run(uri, found)
    if new:
        run.log_params(params)
    return run


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
    return f"sqlite:///{path}/mlflow.db", Path(path, "artifacts").as_uri()
