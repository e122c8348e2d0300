"""Ports of this machine for servers that are told where to listen."""

import contextlib
import errno
import random
import socket
from pathlib import Path

from recsys.errors import UserError

_ABOVE_RAYS_WORKERS = 20_000  # Ray gives 10002 to 19999 to its workers
_GIVEN_AWAY = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_port() -> int:
    """A port that nobody listens on (`free_ports`)."""
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """Different ports of loopback that nobody listens on.

    They lie below those that the kernel gives to whoever asks for any: such a port may be another program's before the
    server that it was meant for listens.

    Raises:
        UserError: there are not so many.
    """
    first, last = _find_range()
    found: list[int] = []
    with contextlib.ExitStack() as stack:
        for port in random.SystemRandom().sample(range(first, last), last - first):
            probe = stack.enter_context(socket.socket())
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                    raise
                continue
            found.append(port)
            if len(found) == count:
                return found
    raise UserError(f"no {count} ports of loopback are free between {first} and {last}")


def _find_range() -> tuple[int, int]:
    try:
        lowest = int(_GIVEN_AWAY.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        lowest = 32_768
    return (_ABOVE_RAYS_WORKERS, lowest) if lowest > _ABOVE_RAYS_WORKERS + 1000 else (_ABOVE_RAYS_WORKERS, 65_536)
