"""The command line of MLflow's page, which everybody on the machine may read."""

from pathlib import Path

import pytest

from ray_jobs.ui import command
from recsys.config import from_dict
from recsys.errors import UserError
from recsys.settings import Settings


def test_the_address_of_a_store_is_not_in_the_command_line(tmp_path: Path) -> None:
    address = "postgresql://me:secret@host/runs"
    server, environment = command(from_dict(Settings, {"tracking": {"uri": address}}), 5001)
    assert environment["MLFLOW_BACKEND_STORE_URI"] == address
    assert "secret" not in " ".join(server)
    assert server[server.index("--host") + 1] == "127.0.0.1" and server[server.index("--port") + 1] == "5001"


def test_a_file_must_be_there(tmp_path: Path) -> None:
    settings = from_dict(Settings, {"storage": str(tmp_path)})
    with pytest.raises(UserError, match=r"nothing was recorded in sqlite:///.*mlflow\.db yet"):
        command(settings, 5000)
    (tmp_path / "mlflow").mkdir()
    (tmp_path / "mlflow" / "mlflow.db").touch()
    assert command(settings, 5000)[1]["MLFLOW_BACKEND_STORE_URI"].endswith("mlflow/mlflow.db")
