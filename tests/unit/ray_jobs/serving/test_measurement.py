import subprocess
import sys
import time

from ray_jobs.serving.measurement import count_cpu_seconds

BUSY = "import time\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass\nprint(flush=True)\ninput()"


def test_what_replicas_compute_is_counted_by_their_names() -> None:
    names = ("ray::ServeReplica:recsys:Ingress", "ray::ServeReplica:other:Ingress")
    counted = []
    for name in names:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with subprocess.Popen([name, "-c", BUSY], executable=sys.executable, **pipes) as process:
            assert process.stdout is not None and process.stdin is not None
            process.stdout.readline()
            own = f"{process.pid} "
            counted.append([seconds for each, seconds in count_cpu_seconds().items() if each.startswith(own)])
            process.stdin.write(b"\n")
            process.stdin.close()
            deadline = time.monotonic() + 60
            while process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.01)
    assert [len(each) for each in counted] == [1, 0] and counted[0][0] >= 0.25
