"""The MLflow store: made, probed, reached; its runs found again, and closed where their process is no more."""

import functools
import logging
import os
import re
import shutil
import socket
import sqlite3
import tempfile
import time
import urllib.parse
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recsys import environment
from recsys.config import digest
from recsys.environment import start_time
from recsys.secrets import mask, mask_values

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run as StoredRun

WORK_TAG = "recsys.work"
PARENT_TAG = "mlflow.parentRunId"
OWNER_TAG = "recsys.owner"

_PATIENCE = 5.0  # seconds for a SQLite store that another process holds; MLflow's own are 20, for every record
_PAUSE = 60.0  # seconds before a store that was away is asked again
_SQLITE = re.compile(r"sqlite(?:\+\w+)?:///([^?]+)")
_MOST_KEPT = 10_000
_away: dict[str, float] = {}
_kept: dict[str, deque[tuple[str, Callable[[], None]]]] = {}


class StoreUnusableError(OSError):
    """A SQLite store that is locked, damaged or gone."""


def database(uri: str) -> Path | None:
    """The file of a SQLite store."""
    found = _SQLITE.match(uri)
    return Path(found[1]) if found and found[1] != ":memory:" else None


def check(uri: str, seconds: float = _PATIENCE) -> None:
    """See that a SQLite store can be written, waiting no longer than so; of other stores nothing.

    Raises:
        StoreUnusableError: it is locked, damaged, read-only or gone.
    """
    if (file := database(uri)) is None:
        return
    try:
        address = f"file:{urllib.parse.quote(str(file))}?mode=rw"
        with closing(sqlite3.connect(address, uri=True, timeout=seconds, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("SELECT count(*) FROM sqlite_master")
            connection.execute("ROLLBACK")
    except sqlite3.Error as error:
        raise StoreUnusableError(f"{file.name}: {error}") from None


def is_outage(error: BaseException) -> bool:
    """Whether the store itself is away, and not only one record refused."""
    if isinstance(error, StoreUnusableError):
        return True
    if type(error).__name__ in ("OperationalError", "DatabaseError"):  # of SQLAlchemy
        return True
    code = getattr(error, "error_code", "")
    return code in ("TEMPORARILY_UNAVAILABLE", "INTERNAL_ERROR") or (
        error.__cause__ is not None and is_outage(error.__cause__)
    )


def is_away(uri: str) -> bool:
    """Whether the store was away a short while ago: asking it again would hold the work up."""
    return time.monotonic() < _away.get(uri, 0.0)


def say(uri: str, what: str, error: BaseException) -> None:
    """Say that something is not recorded; that the store is away once only, and it is left alone for a while."""
    line = f"tracking: {what} not recorded in {uri}: {reason(error)}"
    if not is_outage(error):
        print(mask(line), flush=True)
        return
    if uri not in _away:
        print(mask(f"{line}; going on without it, tried again every minute"), flush=True)
    _away[uri] = time.monotonic() + _PAUSE


def keep(uri: str, what: str, write: Callable[[], None]) -> None:
    """Keep a record for when the store answers again; of very many the oldest go."""
    _kept.setdefault(uri, deque(maxlen=_MOST_KEPT)).append((what, write))


def send_kept(uri: str) -> int:
    """Write what was kept, in its order, and say how many records that were.

    Raises:
        Exception: the store is away still; what was not written is kept on.
    """
    kept, sent = _kept.get(uri, deque()), 0
    while kept:
        what, write = kept.popleft()
        try:
            write()
        except Exception as error:
            if is_outage(error):
                kept.appendleft((what, write))
                raise
            say(uri, what, error)
        else:
            sent += 1
    return sent


def note_answer(uri: str, sent: int) -> None:
    """The store answers, and got so many records that had been kept."""
    if _away.pop(uri, None) is not None:
        print(mask(f"tracking: {uri} records again; {sent} kept record(s) sent"), flush=True)


def give_up(uri: str) -> None:
    """Say how many records never reached a store that is still away."""
    if kept := _kept.pop(uri, None):
        print(mask(f"tracking: {len(kept)} record(s) never reached {uri}"), flush=True)


def reason(error: BaseException) -> str:
    """What went wrong, in a line."""
    return mask(" ".join(str(error).partition("[SQL:")[0].split()))[:200]


@functools.lru_cache(maxsize=8)
def client(uri: str) -> "MlflowClient":
    """A client of the store, which is made where it is a SQLite file that is not there."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # A server that is away must not hold training for the minutes of MLflow's defaults.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    for noisy in ("alembic", "mlflow"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    logging.getLogger("mlflow.store").setLevel(logging.CRITICAL)  # tracebacks of what is told here in a line
    if (file := database(uri)) is not None:
        _make(file)
        check(uri)  # MLflow would try a damaged one for two minutes
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def _make(file: Path) -> None:
    """Put a SQLite store with all its tables in place at once.

    MLflow makes them one by one, where another process that starts now, or the next one after a kill, trips over them.
    """
    if file.exists():
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{file.name}-"
    for left in file.parent.glob(f"{prefix}*"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > 3600:
                shutil.rmtree(left)
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    with tempfile.TemporaryDirectory(prefix=prefix, dir=file.parent, ignore_cleanup_errors=True) as folder:
        made = Path(folder, file.name)
        store = SqlAlchemyStore(f"sqlite:///{made}", (file.parent / "artifacts").absolute().as_uri())
        store.engine.dispose()
        try:
            os.link(made, file)
        except FileExistsError:
            pass  # another process was first
        except OSError:  # a file system without links
            if not file.exists():
                made.rename(file)


def start(
    uri: str,
    artifacts: str | None,
    experiment: str,
    step: str,
    params: Mapping[str, Any],
    tags: Mapping[str, Any],
    parent: str,
) -> tuple[str, bool]:
    """The id of a run for the work of that step, parameters and tags, and whether it is new.

    One that did not finish is continued, unless a process of this machine works on it. A run without a parent first
    closes those that a killed process of this machine left open.
    """
    at = client(uri)
    check(uri)
    experiment_id = _experiment(at, experiment, artifacts)
    if not parent:
        _close_abandoned(at, experiment_id)
    work = digest({"step": step, "params": dict(params), "tags": dict(tags)})
    unfinished = at.search_runs([experiment_id], f"tags.`{WORK_TAG}` = '{work}' and attributes.status != 'FINISHED'")
    own = {OWNER_TAG: _this_process(), **({PARENT_TAG: parent} if parent else {})}
    for stored in unfinished:
        if stored.info.status == "RUNNING" and lives(stored) is True:
            continue
        at.update_run(stored.info.run_id, status="RUNNING")
        for name, value in {"recsys.continued": "true", **own}.items():
            at.set_tag(stored.info.run_id, name, value)
        return stored.info.run_id, False
    said = mask_values({name: str(value) for name, value in tags.items()})
    created = at.create_run(experiment_id, run_name=step, tags={**said, WORK_TAG: work, **own})
    return created.info.run_id, True


def reopen(uri: str, id: str) -> bool:
    """Go on with the run of that id, whatever became of it; False where the store has none."""
    from mlflow.exceptions import MlflowException

    at = client(uri)
    check(uri)
    try:
        at.update_run(id, status="RUNNING")
        at.set_tag(id, OWNER_TAG, _this_process())
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return False
        raise
    return True


def _close_abandoned(at: "MlflowClient", experiment_id: str) -> None:
    for stored in at.search_runs([experiment_id], "attributes.status = 'RUNNING'"):
        if lives(stored) is False:
            at.set_terminated(stored.info.run_id, "KILLED")


def _this_process() -> str:
    return f"{machine()} {os.getpid()} {start_time(os.getpid())}"


def machine() -> str:
    """Host, boot and the space of process numbers."""
    kernel, space = environment.boot() or ("unknown", "unknown")
    return f"{socket.gethostname()} {kernel} {space}"


def lives(stored: "StoredRun") -> bool | None:
    """Whether the process that works on a run lives; None of another machine's, or where the run does not say."""
    owner = stored.data.tags.get(OWNER_TAG, "").split(" ")
    if len(owner) != 5:
        return None
    host, boot, space, pid, start = owner
    this_host, this_boot, this_space = machine().split(" ")
    if host == this_host and boot != this_boot:
        return False  # the machine was started anew
    return None if (host, space) != (this_host, this_space) else str(start_time(int(pid))) == start


def _experiment(at: "MlflowClient", name: str, artifacts: str | None) -> str:
    from mlflow.exceptions import MlflowException

    known = at.get_experiment_by_name(name)
    if known is None:
        try:
            folder = artifacts and f"{artifacts}/{urllib.parse.quote(name, safe='')}"
            return at.create_experiment(name, artifact_location=folder)
        except MlflowException:
            known = at.get_experiment_by_name(name)  # another job made it meanwhile
            if known is None:
                raise
    return known.experiment_id
