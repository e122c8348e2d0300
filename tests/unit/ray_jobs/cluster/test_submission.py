"""The demo's dealings with Ray's job server, where it does not answer at once."""

import socket
import subprocess
import threading
import urllib.request
from pathlib import Path

import pytest

from ray_jobs.cluster.local_ray import LocalRay
from ray_jobs.cluster.submission import ask_patiently
from recsys.errors import UserError


def test_a_dropped_connection_is_asked_again() -> None:
    asked = []

    def serve(server: socket.socket) -> None:
        for number in range(3):
            connection, _ = server.accept()
            asked.append(connection.recv(1000))
            if number == 2:
                connection.sendall(b"HTTP/1.0 200 OK\r\n\r\nyes")
            connection.close()

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve, args=(server,))
        thread.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        assert ask_patiently(lambda: urllib.request.urlopen(url, timeout=10).read()) == b"yes"
        thread.join()
    assert len(asked) == 3
    with pytest.raises(UserError, match="does not answer"):
        ask_patiently(lambda: urllib.request.urlopen(url, timeout=10), seconds=0.3)


def test_a_ray_that_ended_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "start.log").write_text(
        "12:00 ERR scripts.py:1 -- \x1b[31mSome Ray subprocesses exited unexpectedly:\x1b[39m\n"
        "12:00 ERR scripts.py:2 -- \x1b[31m\x1b[1mdashboard\x1b[22m\x1b[39m\x1b[2m [exit code=-9]\x1b[22m\n"
        "12:00 ERR scripts.py:3 -- \x1b[31mRemaining processes will be killed.\x1b[39m\n"
    )
    process = subprocess.Popen(["true"])
    process.wait()
    ray = LocalRay("http://127.0.0.1:1", tmp_path, process)
    with pytest.raises(UserError, match=r"ended by itself \(dashboard \[exit code=-9\]\); run it again"):
        ask_patiently(lambda: urllib.request.urlopen(ray.address, timeout=10), ray=ray, seconds=60)
