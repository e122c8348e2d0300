"""The demo's command line becomes its job's; no Ray is started."""

import argparse
from pathlib import Path
from typing import Any

import pytest

from ray_jobs import cli, demo


def parse(*arguments: str) -> argparse.Namespace:
    return demo.build_parser().parse_intermixed_args(list(arguments))


def test_the_fixture_has_a_configuration_and_data_of_its_own(tmp_path: Path) -> None:
    found = cli.load_settings(demo.job_arguments(parse("--data", "fixture", "--storage", str(tmp_path))))
    assert found.data.path is not None and Path(found.data.path, "u.data").is_file()
    assert found.layout.storage_root == str(tmp_path)
    assert found.teacher != cli.load_settings(demo.job_arguments(parse())).teacher


def test_paths_are_absolute_for_a_job_runs_in_a_folder_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.yaml").write_text("name: own\n")
    given = demo.job_arguments(parse("--data", "mine", "--config", "own.yaml", "--force", "serving.port=1"))
    assert given == [
        *("--config", str(tmp_path / "own.yaml")),
        *("--storage", str(tmp_path / "runs")),
        *("--force", "serving.port=1", f"data.path={tmp_path / 'mine'}"),
    ]


@pytest.mark.parametrize(("option", "job"), [((), "pipeline"), (("--serve",), "serve")])
def test_it_ends_as_its_job_does(
    option: tuple[str, ...], job: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}

    def run_alone(name: str, arguments: list[str], *, until_stopped: bool) -> int:
        seen.update(job=name, arguments=arguments, until_stopped=until_stopped)
        return 7

    monkeypatch.setattr(demo, "run_alone", run_alone)
    monkeypatch.setattr("ray_jobs.serving.application.check", lambda _: None)
    with pytest.raises(SystemExit) as end:
        demo.main(["--data", "fixture", "--storage", str(tmp_path), *option])
    assert end.value.code == 7
    assert (seen["job"], seen["until_stopped"]) == (job, bool(option))
    assert ["--storage", str(tmp_path)] == seen["arguments"][2:4]
