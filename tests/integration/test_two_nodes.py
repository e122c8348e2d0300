"""The pipeline on two nodes that share nothing but the storage root."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.integration.commands import ROOT, free_port

pytestmark = [pytest.mark.full, pytest.mark.timeout(900)]


def test_the_pipeline_runs_on_two_nodes(tmp_path: Path) -> None:
    from ray.cluster_utils import Cluster

    folder = tempfile.mkdtemp(prefix="two-")
    nodes = {"num_cpus": 3, "object_store_memory": 150_000_000}
    cluster = Cluster(initialize_head=True, head_node_args={**nodes, "include_dashboard": False, "temp_dir": folder})
    try:
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
        assert "all 7 steps are done" in done.stdout
        assert (tmp_path / "fixture" / "report" / "report.html").exists()
    finally:
        cluster.shutdown()
        shutil.rmtree(folder, ignore_errors=True)
