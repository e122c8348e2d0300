"""What every job's command line has in common."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from recsys import storage
from recsys.config import load_config
from recsys.errors import UserError
from recsys.settings import Layout, Settings

# No telemetry of any library leaves the machine; models come from disk unless the user allows the hub.
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}

Arguments = Callable[[argparse.ArgumentParser], Any]


def run_job(
    doc: str | None, body: Callable[[Settings, argparse.Namespace], Any], arguments: Arguments | None = None
) -> None:
    """Parse the command line, load the settings, run `body`; a `UserError` becomes one line and exit status 2."""
    args = parser(doc, arguments).parse_intermixed_args()

    def work() -> int:
        settings = _settings(args)
        _require_lasting_storage(settings)
        body(settings, args)
        return 0

    if code := guarded(work):
        sys.exit(code)


def guarded(work: Callable[[], int]) -> int:
    """Run `work` with quiet libraries; its exit status, 2 after a `UserError`, 130 after Ctrl-C, each with a line."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    try:
        return work()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 2
    except KeyboardInterrupt:
        print("interrupted; run the same command again to continue", file=sys.stderr, flush=True)
        return 130


def parser(doc: str | None = None, arguments: Arguments | None = None) -> argparse.ArgumentParser:
    """The command line of a job."""
    made = argparse.ArgumentParser(
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Overrides are key=value with dots for sections, for example: data.protocol=global_time",
    )
    made.add_argument("--config", metavar="FILE", help="YAML file (see ray_jobs/configs/)")
    made.add_argument("--storage", metavar="ROOT", help="absolute path or URI under which everything is kept")
    made.add_argument("--force", action="store_true", help="redo what is already there")
    made.add_argument("overrides", nargs="*", metavar="key=value", help="settings that replace those of the file")
    if arguments:
        arguments(made)
    return made


def load_settings(arguments: Sequence[str]) -> Settings:
    """The settings that a job with this command line would use.

    Raises:
        UserError: the file, a key or a value is not accepted.
    """
    return _settings(parser().parse_intermixed_args(arguments))


def is_current(uri: str, key: str) -> bool:
    """Whether a complete artefact made from the same configuration and inputs is already there."""
    manifest = storage.read_manifest(uri)
    return manifest is not None and manifest.key == key


def required(uri: str, what: str, job: str) -> storage.Manifest:
    """The manifest of an input.

    Raises:
        UserError: it is not there yet.
    """
    manifest = storage.read_manifest(uri)
    if manifest is None:
        raise UserError(f"there is no {what} in {uri}; run {job} first")
    return manifest


def fingerprint(layout: Layout) -> str:
    """Fingerprint of the prepared dataset, from its manifest alone.

    Raises:
        UserError: it is not there yet.
    """
    return str(required(layout.dataset, "prepared dataset", "prepare_data").attributes["fingerprint"])


def _settings(args: argparse.Namespace) -> Settings:
    overrides = [*args.overrides, *([f"storage={args.storage}"] if args.storage else [])]
    return load_config(Settings, args.config, overrides)


def _require_lasting_storage(settings: Settings) -> None:
    """A submitted job's own folder is Ray's unpacked package; what is written there vanishes with it."""
    root = settings.storage or os.environ.get("RECSYS_STORAGE") or "runs"
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ and "://" not in root and not os.path.isabs(root):  # noqa: PTH117
        raise UserError(
            f"storage {root!r} lies in the job's own folder, which vanishes; name an absolute path or a URI "
            "(--storage, or RECSYS_STORAGE in the cluster's environment)"
        )
