"""`RAY_ADDRESS`: which cluster a job joins, told wrong before any work."""

import os
import socket

from recsys.errors import UserError

LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""A Ray that is started with it takes 127.0.0.1 for its node's address, as where a node cannot have others beside it.
Ray reads it once, when it is imported."""
_SECONDS = 5.0


def cluster_address() -> str | None:
    """The cluster to join, or None where a job starts an embedded Ray.

    Raises:
        UserError: `RAY_ADDRESS` is no address that a job can join, or nothing answers there.
    """
    address = os.environ.get("RAY_ADDRESS", "").strip()
    if address in ("", "local"):
        return None
    mend = "unset it to work on this machine (env -u RAY_ADDRESS …), or submit the job: ray job submit --working-dir ."
    if address.startswith(("http://", "https://")):
        raise UserError(
            f"RAY_ADDRESS is {address}: `ray job submit` goes there, a job that is started here does not; {mend}"
        )
    if "://" in address:
        raise UserError(f"RAY_ADDRESS is {address}, but jobs do not run through Ray Client; {mend}")
    if address == "auto":
        return address
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise UserError(f"RAY_ADDRESS is {address!r}, which is not of the form host:port; {mend}")
    try:
        # Ray itself would try for two minutes, and then end the process.
        socket.create_connection((host.strip("[]"), int(port)), timeout=_SECONDS).close()
    except OSError as error:
        reason = error.strerror or str(error) or type(error).__name__
        raise UserError(f"RAY_ADDRESS is {address}, but no Ray answers there ({reason}); start it, or {mend}") from None
    return address
