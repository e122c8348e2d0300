"""A process is told from a later one of the same number, and from one that has died unnoticed."""

import os
import subprocess
import sys
import time

from recsys.environment import LIBRARIES, hardware, start_time, versions


def test_only_the_living_have_a_start() -> None:
    own = start_time(os.getpid())
    assert own is not None and own == start_time(os.getpid())
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        began = start_time(child.pid)
        assert began is not None and began >= own
        child.kill()
        deadline = time.monotonic() + 10
        while start_time(child.pid) is not None:  # dead, though nobody has asked for its end
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert start_time(child.pid) is None
    assert start_time(-1) is None


def test_what_a_result_is_measured_with() -> None:
    assert {"python", "torch"} <= versions().keys() <= {"python", *LIBRARIES}
    found = hardware()
    assert found["processor"] and found["cores"] >= 1 and found["memory_gb"] > 0
