"""Ports for servers."""

import socket

import pytest

from recsys import ports
from recsys.errors import UserError


def test_ports_are_free_different_and_not_given_to_others() -> None:
    found = ports.free_ports(20)
    assert len(set(found)) == 20
    with socket.socket() as any_port:
        any_port.bind(("127.0.0.1", 0))
        assert max(found) < any_port.getsockname()[1], "below those that the kernel gives away"
    for port in found:
        socket.create_server(("127.0.0.1", port)).close()


def test_a_port_in_use_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        monkeypatch.setattr(ports, "_find_range", lambda: (port, port + 1))
        with pytest.raises(UserError, match="no 1 ports of loopback are free"):
            ports.free_port()
