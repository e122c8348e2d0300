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


def command(settings: Settings, port: int) -> tuple[list[str], dict[str, str]]:
    """The server's command line, and what it learns by its environment.

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
    # Everybody may read command lines, and the address of a database may hold a password. Of job runners MLflow has
    # eight more processes of 240 MB that this page has no use for.
    environment = {"MLFLOW_BACKEND_STORE_URI": uri, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    return [sys.executable, "-m", "mlflow", "server", *host], environment


def main() -> None:
    def run(settings: Settings, args: argparse.Namespace) -> None:
        server, environment = command(settings, args.port)
        print(f"MLflow at http://127.0.0.1:{args.port}, Ctrl-C stops", flush=True)
        os.execve(sys.executable, server, {**os.environ, **environment})

    cli.run_job(
        __doc__, run, lambda parser: parser.add_argument("--port", type=int, default=5000), ray=False, writes=False
    )


if __name__ == "__main__":
    main()
