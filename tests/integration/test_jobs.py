"""Jobs through Ray's real job API, on a Ray with token authentication."""

import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from ray_jobs.demo import submit
from ray_jobs.local_ray import LocalRay, local_ray
from tests.integration.commands import DemoRuns, Make

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def server() -> Iterator[LocalRay]:
    with local_ray() as ray:
        assert submit(ray, "true") == 0  # waits until the agent that starts drivers is there
        yield ray


def test_readme_jobs(
    server: LocalRay, demo: DemoRuns, make: Make, readme: dict[str, list[str]], tmp_path: Path
) -> None:
    """The commands of README.md on the tiny data set, where all but the last step is kept."""
    shutil.copytree(demo.storage, tmp_path / "runs")
    (commands,) = readme["jobs"]
    commands = commands.replace("demo.yaml", "fixture.yaml").replace("/shared/runs", str(tmp_path / "runs"))
    variables = " ".join(f"{name}={value}" for name, value in server.environment.items())
    command = make.shell(f"export {variables}\n{commands}")
    assert command.end() == 0, command.output
    assert command.output.count("succeeded") == 2
    assert "items of the user's past ranked as well" in command.output


def test_a_users_mistake_is_one_line_and_its_exit_status(server: LocalRay, capsys: pytest.CaptureFixture[str]) -> None:
    assert submit(server, "python -m ray_jobs.evaluate --storage /nowhere/runs") == 2
    assert submit(server, "python -m ray_jobs.prepare_data --config ray_jobs/configs/fixture.yaml") == 2
    lines = [line for line in capsys.readouterr().out.splitlines() if line]
    assert lines[0].startswith("error: there is no prepared dataset in /nowhere/runs/demo/dataset")
    assert lines[1].startswith("error: storage 'runs' lies in the job's own folder, which vanishes")
    assert len(lines) == 2


def test_nobody_without_the_token_is_let_in(server: LocalRay) -> None:
    url = f"{server.address}/api/jobs/"
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(url, timeout=10)
    assert refused.value.code == 401
    with urllib.request.urlopen(urllib.request.Request(url, headers=server.headers), timeout=10) as answer:
        assert answer.status == 200
    assert (server.folder / "token").stat().st_mode & 0o777 == 0o600
    assert server.folder.stat().st_mode & 0o777 == 0o700
