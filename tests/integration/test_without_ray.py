"""The whole path in one process, as README shows it."""

import os
import subprocess
import sys
from pathlib import Path


def test_the_stages_need_no_ray(readme: dict[str, list[str]], project_root: Path, tmp_path: Path) -> None:
    code = readme["stages"][0] + "\nimport sys; assert not {'ray', 'ray_jobs'} & {*sys.modules}\n"
    environment = {**os.environ, "RECSYS_STORAGE": str(tmp_path), "PYTHONPATH": str(project_root)}
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, cwd=project_root, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "all 7 steps are done" in done.stdout
    made = tmp_path / "without-ray"
    assert (made / "students" / "sasrec-distilled" / "_SUCCESS").exists() and (made / "report" / "report.html").exists()
    assert (made / "rules" / "sequential-rules" / "_SUCCESS").exists()
