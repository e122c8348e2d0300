"""Open the recorded runs in MLflow's page, on loopback, until Ctrl-C: what `make ui` runs.

python -m ray_jobs.ui [--config F] [--storage ROOT] [--port 5000]
"""

import argparse
import os
import sys
from pathlib import Path

from ray_jobs import cli
from recsys import tracking
from recsys.errors import UserError
from recsys.settings import Settings


def command(settings: Settings, port: int) -> list[str]:
    """The server's command line.

    Raises:
        UserError: nothing was recorded, or a server shows the runs already.
    """
    uri = tracking.describe(settings.tracking, settings.layout.mlflow)
    if uri == "none":
        raise UserError("tracking.uri is none: nothing was recorded")
    if uri.startswith("http"):
        raise UserError(f"the runs are on an MLflow server, open {uri}")
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).exists():
        raise UserError(f"nothing was recorded in {uri} yet; run make demo first, or name another --storage")
    host = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    return [sys.executable, "-m", "mlflow", "server", *host, "--backend-store-uri", uri]


def main() -> None:
    def body(settings: Settings, args: argparse.Namespace) -> None:
        server = command(settings, args.port)
        print(f"MLflow at http://127.0.0.1:{args.port}, Ctrl-C stops", flush=True)
        # Its job runners are eight more processes of 240 MB that this page has no use for.
        os.execve(sys.executable, server, {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"})

    cli.run_job(__doc__, body, lambda parser: parser.add_argument("--port", type=int, default=5000))


if __name__ == "__main__":
    main()
