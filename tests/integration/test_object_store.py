"""The whole demo with an S3 store as its storage root, from a package's server on loopback: nothing on a disk."""

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from recsys.ports import free_port
from tests.integration.commands import Make

pytestmark = [pytest.mark.full, pytest.mark.timeout(900)]
SECRET = "not-to-be-seen-anywhere"


@pytest.fixture
def endpoint() -> Iterator[str]:
    port = free_port()
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    address = f"http://127.0.0.1:{port}"
    for _ in range(300):
        try:
            urllib.request.urlopen(address, timeout=5).close()
            break
        except OSError:
            time.sleep(0.2)
    yield address
    server.terminate()
    server.wait(30)


def test_the_demo_lives_in_a_bucket(endpoint: str, make: Make, tmp_path: Path) -> None:
    from pyarrow.fs import FileSelector, S3FileSystem

    keys = {"access_key": "reader", "secret_key": SECRET, "region": "us-east-1"}
    bucket = S3FileSystem(endpoint_override=endpoint, allow_bucket_creation=True, **keys)
    bucket.create_dir("bucket")
    environment = {
        **make.environment,
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": keys["access_key"],
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_REGION": keys["region"],
        "AWS_EC2_METADATA_DISABLED": "true",
        "RECSYS_CACHE": str(tmp_path / "copies"),
    }
    user = replace(make, environment=environment)
    port, runs = free_port(), tmp_path / "mlflow.db"
    arguments = (
        "DATA=fixture",
        "STORAGE=s3://bucket/runs",
        f"ARGS='serving.port={port} tracking.uri=sqlite:///{runs}'",
    )
    outputs = []
    for _ in range(2):
        command = user.start("demo", *arguments)
        assert command.end() == 0, command.output
        assert "all 8 steps are done" in command.output
        outputs.append(command.output)
    assert "student-sasrec-distilled: epoch" in outputs[0]
    assert "epoch" not in outputs[1], "what lies in the bucket is kept"

    files = {
        info.path: info for info in bucket.get_file_info(FileSelector("bucket/runs", recursive=True)) if info.is_file
    }
    for place in ("dataset", "teacher", "signals", "students/sasrec-distilled"):
        assert any(path.startswith(f"bucket/runs/fixture/{place}/") for path in files)
    assert "bucket/runs/fixture/report/report.html" in files
    told = [output.encode() for output in outputs] + [runs.read_bytes()]
    told += [bucket.open_input_stream(path).read() for path in files]
    assert not any(SECRET.encode() in each for each in told), "credentials come from the environment and stay there"

    server = user.start("serve", *arguments)
    server.wait_for(f"serving teacher, student, null at http://127.0.0.1:{port}")
    for arm in ("student", "teacher"):
        body = json.dumps({"history": ["1"], "k": 3, "arm": arm}).encode()
        asked = urllib.request.Request(
            f"http://127.0.0.1:{port}/recommend", data=body, headers={"content-type": "application/json"}
        )
        with urllib.request.urlopen(asked, timeout=60) as answer:
            assert len(json.load(answer)["items"]) == 3
    server.kill(2)
    server.end(120)
    user.close()
