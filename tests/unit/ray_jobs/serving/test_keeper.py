"""The actor that keeps the experiment. How replicas follow it is tested in test_experiment.py."""

import subprocess
import sys


def test_its_process_is_small() -> None:
    heavy = "import sys, ray_jobs.serving.keeper; print([name for name in ('torch', 'pandas') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
