"""docs/cluster.md: every command is one that the program it calls accepts, with files and names that exist."""

import importlib
import re
import shlex
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from ray.scripts import scripts

from ray_jobs import cli
from recsys.config import load_config
from recsys.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "cluster.md").read_text()
BLOCKS = re.findall(r"<!-- tested: cluster -->\n```sh\n(.*?)```", PAGE, flags=re.DOTALL)
COMMANDS = [line.strip() for block in BLOCKS for line in block.replace("\\\n", " ").splitlines()]
KUBERAY = {path.name: yaml.safe_load(path.read_text()) for path in (ROOT / "deploy" / "kuberay").glob("*.yaml")}


def parse(group: click.Command, arguments: list[str], parent: click.Context | None = None) -> dict[str, Any]:
    """What a program of click's would be called with.

    Raises:
        click.UsageError: it knows no such command, option or argument.
    """
    if not isinstance(group, click.Group):
        return group.make_context(group.name, list(arguments), parent=parent).params
    context = click.Context(group, parent=parent)
    command = group.get_command(context, arguments[0])
    if command is None:
        raise click.UsageError(f"no command {arguments[0]}")
    return parse(command, arguments[1:], context)


def check_ray(arguments: list[str]) -> None:
    params = parse(scripts.cli, arguments)
    if file := params.get("cluster_config_file"):
        assert (ROOT / file).is_file()
    if entrypoint := params.get("entrypoint"):
        assert params["working_dir"] == "."
        check_python(list(entrypoint[1:]))


def check_python(arguments: list[str]) -> None:
    """The job's own parser takes the arguments, and the settings the overrides."""
    flag, name, *rest = arguments
    assert flag == "-m"
    calls: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli, "run_job", lambda doc, body, parser=None, **_: calls.append(parser))
        importlib.import_module(name).main()
    args = cli.build_parser(None, *calls).parse_intermixed_args(rest)
    load_config(Settings, ROOT / args.config, args.overrides)


def check_kubectl(arguments: list[str]) -> None:
    if arguments[:2] == ["-n", "recsys"]:
        arguments = arguments[2:]
    match arguments:
        case ["create", "namespace", "recsys"]:
            pass
        case ["apply" | "create" as verb, "-f", file]:
            generated = "generateName" in yaml.safe_load((ROOT / file).read_text())["metadata"]
            assert generated == (verb == "create"), "what makes its own name cannot be applied"
        case ["create", "secret", "generic", name, source]:
            used = yaml.safe_dump(KUBERAY["cluster.yaml"])
            keys = {
                "recsys-ray-token": "--from-file=auth_token=/dev/stdin",
                "recsys-storage": "--from-env-file=/dev/stdin",
            }
            assert name in used and source == keys[name]
        case ["port-forward", service, port]:
            # KubeRay's names: <cluster>-head-svc, <service>-serve-svc.
            cluster, serving = (KUBERAY[f"{kind}.yaml"]["metadata"]["name"] for kind in ("cluster", "service"))
            assert (service, port) in {
                (f"service/{cluster}-head-svc", "8265"), (f"service/{serving}-serve-svc", "8000")
            }  # fmt: skip
        case _:
            pytest.fail(f"unknown: {arguments}")


def check_podman(arguments: list[str]) -> None:
    image = arguments[arguments.index("-t") + 1] if "-t" in arguments else arguments[-1]
    used = KUBERAY["cluster.yaml"]["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["image"]
    assert image == used
    if arguments[0] == "build":
        assert (ROOT / arguments[arguments.index("-f") + 1]).is_file() and arguments[-1] == "."


def check_helm(arguments: list[str]) -> None:
    if arguments[0] == "install":
        version = arguments[arguments.index("--version") + 1]
        assert (ROOT / "tests" / "fixtures" / "kuberay" / f"schema-{version}.yaml").is_file()
        policy = yaml.safe_dump(KUBERAY["network.yaml"])
        assert f"kubernetes.io/metadata.name: {arguments[arguments.index('--namespace') + 1]}" in policy


def check_mlflow(arguments: list[str]) -> None:
    with warnings.catch_warnings(action="ignore"):  # of MLflow about its own types
        from mlflow.cli import cli as program
    parse(program, arguments)


def check_curl(arguments: list[str]) -> None:
    assert arguments == ["-s", "http://127.0.0.1:8000/health"]


def check_export(arguments: list[str]) -> None:
    assert arguments == ["RAY_ADDRESS=http://127.0.0.1:8265", "RAY_AUTH_MODE=token"]


CHECKS: dict[str, Callable[[list[str]], Any]] = {
    "ray": check_ray,
    "python": check_python,
    "kubectl": check_kubectl,
    "podman": check_podman,
    "helm": check_helm,
    "mlflow": check_mlflow,
    "curl": check_curl,
    "export": check_export,
    "tr": lambda arguments: None,
    "env": lambda arguments: None,
    "grep": lambda arguments: re.compile(arguments[1]),
}


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_is_accepted(line: str) -> None:
    words = shlex.split(line.removesuffix(" &"))
    while words:
        end = words.index("|") if "|" in words else len(words)
        program, *arguments = words[:end]
        CHECKS[program](arguments)
        words = words[end + 1 :]


def test_no_command_is_left_out() -> None:
    assert len(BLOCKS) == PAGE.count("```sh") == PAGE.count("```") // 2 and len(COMMANDS) > 25


@pytest.mark.parametrize(
    "line",
    [
        "ray job submit --working-dir . -- python -m ray_jobs.distill --config ray_jobs/configs/gpu.yaml --studnet a",
        "ray job submit --working-dirr . -- python -m ray_jobs.distill --config ray_jobs/configs/gpu.yaml",
        "ray up -y clusters.yaml",
        "kubectl -n recsys apply -f deploy/kuberay/job.yaml",
        "kubectl -n recsys port-forward service/recsys-svc 8265",
        "mlflow serve --port 5000",
    ],
)
def test_what_is_wrong_is_found(line: str) -> None:
    with pytest.raises((Exception, SystemExit)):
        test_every_command_is_accepted(line)


def test_what_shows_that_nothing_is_lost_exists() -> None:
    names = re.findall(r"`(test_\w+\.py)`", PAGE)
    assert names and [name for name in names if not list((ROOT / "tests").rglob(name))] == []
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", PAGE)
    assert [link for link in links if not (ROOT / "docs" / link).exists()] == []
