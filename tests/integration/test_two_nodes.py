"""The pipeline on two nodes that share nothing but the storage root."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from recsys.ports import free_port
from tests.integration.commands import ROOT, ray_nodes

pytestmark = [pytest.mark.full, pytest.mark.timeout(900)]


def test_the_pipeline_runs_on_two_nodes(tmp_path: Path) -> None:
    nodes = {"num_cpus": 3, "object_store_memory": 150_000_000}
    with ray_nodes("two-", **nodes) as cluster:
        cluster.add_node(**nodes)
        # More than half a node each, so that two workers or actors need both nodes.
        spread = {"teacher.scaling": "workers", "students.sasrec.scaling": "workers", "signals": "actors"}
        overrides = [f"{section}.{count}=2" for section, count in spread.items()]
        overrides += [f"{section}.cpus=2" for section in spread]
        config = str(ROOT / "ray_jobs" / "configs" / "fixture.yaml")
        pipeline = [sys.executable, "-m", "ray_jobs.pipeline", "--config", config, "--storage", str(tmp_path)]
        done = subprocess.run(
            [*pipeline, f"serving.port={free_port()}", *overrides],
            cwd=ROOT,
            env={**os.environ, "RAY_ADDRESS": cluster.address},
            capture_output=True,
            text=True,
            timeout=800,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "all 8 steps are done" in done.stdout
        for chatter in ("PreemptionWatcher", "FutureWarning"):
            assert chatter not in done.stdout + done.stderr
        assert (tmp_path / "fixture" / "report" / "report.html").exists()
