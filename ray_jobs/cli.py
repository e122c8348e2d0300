"""What every job's command line has in common."""

import argparse
import os
import sys
from collections.abc import Callable
from typing import Any

from ray_jobs.settings import Settings
from recsys import storage
from recsys.config import load_config
from recsys.errors import UserError

# No telemetry of any library leaves the machine; models come from disk unless the user allows the hub.
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


def run_job(
    doc: str | None,
    body: Callable[[Settings, argparse.Namespace], Any],
    arguments: Callable[[argparse.ArgumentParser], Any] | None = None,
) -> None:
    """Parse the command line, load the settings, run `body`; a `UserError` becomes one line and exit status 2."""
    parser = argparse.ArgumentParser(
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Overrides are key=value with dots for sections, for example: data.protocol=global_time",
    )
    parser.add_argument("--config", metavar="FILE", help="YAML file (see ray_jobs/configs/)")
    parser.add_argument("--storage", metavar="ROOT", help="absolute path or URI under which everything is kept")
    parser.add_argument("--force", action="store_true", help="redo what is already there")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that replace those of the file")
    if arguments:
        arguments(parser)
    args = parser.parse_intermixed_args()
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    try:
        overrides = [*args.overrides, *([f"storage={args.storage}"] if args.storage else [])]
        body(load_config(Settings, args.config, overrides), args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted; run the same command again to continue", file=sys.stderr)
        sys.exit(130)


def is_current(uri: str, key: str) -> bool:
    """Whether a complete artefact made from the same configuration and inputs is already there."""
    manifest = storage.read_manifest(uri)
    return manifest is not None and manifest.key == key
