"""The demo's dealings with Ray's job server, where it does not answer at once."""

import socket
import threading
import urllib.request

import pytest

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
