"""What every job's command line has in common."""

import argparse
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from types import FrameType
from typing import Any

from ray_jobs.address import LOOPBACK, cluster_address
from recsys import storage
from recsys.config import load_config
from recsys.errors import UserError
from recsys.secrets import MaskedStream
from recsys.settings import Settings
from recsys.stages.artefacts import verify_hashes

# What Ray says of its own workings on every run, and that no reader can act on.
CHATTER = (
    r"has constructor arguments in the object store"
    r"|Found multiple active Ray instances"
    r"|Runtime env is setting up|Running entrypoint for job"
    r"|Proxy actor re(adiness check|ported not ready)|ServeController.graceful_shutdown failed"
)
# No telemetry of any library leaves the machine; models come from disk unless the user allows the hub.
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS_SKIP_REGEX": CHATTER,
    # Of torch and Ray about each other; who develops sees them in the tests.
    "PYTHONWARNINGS": "ignore::FutureWarning,ignore::DeprecationWarning",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}

Arguments = Callable[[argparse.ArgumentParser], Any]


class Terminated(SystemExit):
    """SIGTERM or SIGHUP: what is open is closed as after Ctrl-C."""


def run_job(
    doc: str | None,
    body: Callable[[Settings, argparse.Namespace], Any],
    arguments: Arguments | None = None,
    *,
    ray: bool = True,
    writes: bool = True,
) -> None:
    """Parse the command line, load the settings, run `body`; a `UserError` becomes one line and exit status 2.

    Args:
        ray: whether the job may join a cluster, so that a wrong `RAY_ADDRESS` is told before any work.
        writes: whether it writes to the storage; what reads may have a storage that is not writable.
    """
    args = build_parser(doc, arguments).parse_intermixed_args()

    def work() -> int:
        settings = _settings(args)
        _require_lasting_storage(settings)
        check_storage(settings.layout.storage_root, writes=writes)
        if ray and cluster_address() is None:
            os.environ.update(LOOPBACK)
        with verify_hashes(args.verify):
            body(settings, args)
        return 0

    if code := run_guarded(work):
        sys.exit(code)


def run_guarded(work: Callable[[], int]) -> int:
    """Run `work` with quiet libraries; its exit status, 2 after a `UserError`, 130 after Ctrl-C, 143 after SIGTERM,
    each with a line. Nothing that is printed meanwhile shows a password."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    sys.excepthook = _masked_traceback
    with ExitStack() as stack:
        stack.enter_context(redirect_stdout(MaskedStream(sys.stdout)))
        stack.enter_context(redirect_stderr(MaskedStream(sys.stderr)))
        try:
            with _termination():
                return work()
        except UserError as error:
            print(f"error: {' '.join(str(error).splitlines())}", file=sys.stderr, flush=True)
            return 2
        except KeyboardInterrupt:
            print("interrupted; run the same command again to continue", file=sys.stderr, flush=True)
            return 130
        except Terminated as end:
            print("terminated; run the same command again to continue", file=sys.stderr, flush=True)
            return int(end.code or 0)


@contextmanager
def _termination() -> Iterator[None]:
    """Let SIGTERM and SIGHUP raise `Terminated`, where nobody has said what they do."""
    main = threading.current_thread() is threading.main_thread()
    numbers = [n for n in (signal.SIGTERM, signal.SIGHUP) if main and signal.getsignal(n) is signal.SIG_DFL]
    for number in numbers:
        signal.signal(number, _terminate)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)


def _terminate(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    # Only the first one raises: what is being closed must not be interrupted.
    signal.signal(number, signal.SIG_IGN)
    raise Terminated(128 + number)


def _masked_traceback(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    print("".join(traceback.format_exception(kind, error, trace)), end="", file=MaskedStream(sys.stderr))


def build_parser(doc: str | None = None, arguments: Arguments | None = None) -> argparse.ArgumentParser:
    """The command line of a job."""
    made = argparse.ArgumentParser(
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Overrides are key=value with dots for sections, for example: data.protocol=global_time. Text is taken "
        "as it stands, lists and sections are YAML, null is none.",
    )
    made.add_argument("--config", metavar="FILE", help="YAML file (see ray_jobs/configs/)")
    made.add_argument("--storage", metavar="ROOT", help="absolute path or URI under which everything is kept")
    made.add_argument("--force", action="store_true", help="redo what is already there")
    made.add_argument("--verify", action="store_true", help="compare hashes of what is already there, not sizes alone")
    made.add_argument("overrides", nargs="*", metavar="key=value", help="settings that replace those of the file")
    if arguments:
        arguments(made)
    return made


def load_settings(arguments: Sequence[str]) -> Settings:
    """The settings that a job with this command line would use.

    Raises:
        UserError: the file, a key or a value is not accepted.
    """
    return _settings(build_parser().parse_intermixed_args(arguments))


def _settings(args: argparse.Namespace) -> Settings:
    refuse_empty(args)
    overrides = [*args.overrides, *([f"storage={args.storage}"] if args.storage else [])]
    return load_config(Settings, args.config, overrides)


def refuse_empty(args: argparse.Namespace) -> None:
    """Refuse an option with nothing after it, as where a shell's variable is not set.

    Raises:
        UserError: names it.
    """
    for name, value in vars(args).items():
        if value == "":
            raise UserError(f"nothing stands after --{name.replace('_', '-')}; give it a value, or leave it out")


def check_storage(root: str, *, writes: bool = True) -> None:
    """Refuse storage that cannot be used, before any work; nothing is made.

    Raises:
        UserError: it is a file, lies below one or, where the job writes, may not be written; or its object store does
            not answer.
    """
    if "://" in root and not root.startswith("file:"):
        storage.check_reachable(root)
        return
    path = Path(storage.filesystem(root)[1])
    nearest = next(folder for folder in (path, *path.parents) if os.path.lexists(folder))
    if not nearest.is_dir():
        raise UserError(f"storage {root} cannot be used: {nearest} is no folder; name another (--storage)")
    if writes and not os.access(nearest, os.W_OK | os.X_OK, effective_ids=True):
        raise UserError(f"storage {root} cannot be used: {nearest} may not be written by this user; name another")


def _require_lasting_storage(settings: Settings) -> None:
    """A submitted job's own folder is Ray's unpacked package; what is written there vanishes with it."""
    root = settings.storage or os.environ.get("RECSYS_STORAGE") or "runs"
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ and "://" not in root and not os.path.isabs(root):  # noqa: PTH117
        raise UserError(
            f"storage {root!r} lies in the job's own folder, which vanishes; name an absolute path or a URI "
            "(--storage, or RECSYS_STORAGE in the cluster's environment)"
        )
