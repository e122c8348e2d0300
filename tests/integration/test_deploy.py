"""deploy/ is accepted by what reads it, and asks for what the project has: nodes, jobs, files, arguments, ports."""

import importlib
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml
from jsonschema import Draft202012Validator
from prometheus_client.parser import text_string_to_metric_families
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.serve._private.build_app import build_app
from ray.serve.schema import ServeDeploySchema

from ray_jobs import cli, serve
from ray_jobs.serving import proxy
from recsys.checkpoint import save_checkpoint
from recsys.config import from_dict, load_config
from recsys.data.config import DataConfig
from recsys.data.prepare import prepare
from recsys.serving.metrics import Metrics
from recsys.serving.recommender import Recommendation
from recsys.settings import Settings
from recsys.students.config import SASRecConfig
from recsys.students.sasrec import SASRec
from tests.integration.room import Need, needs, unplaced

ROOT = Path(__file__).resolve().parents[2]
KUBERAY = ROOT / "deploy" / "kuberay"
CONFIGS = sorted((ROOT / "ray_jobs" / "configs").glob("*.yaml"))
RAY_PORTS = {"gcs-server": 6379, "dashboard": 8265, "metrics": 8080}


def read(name: str) -> dict[str, Any]:
    return yaml.safe_load((KUBERAY / name).read_text())


@pytest.fixture(scope="module")
def schema() -> Draft202012Validator:
    text = (ROOT / "tests" / "fixtures" / "kuberay" / "schema-1.7.0.yaml").read_text()
    return Draft202012Validator(yaml.safe_load(text))


def clusters() -> dict[str, dict[str, Any]]:
    return {
        "cluster.yaml": read("cluster.yaml")["spec"],
        "service.yaml": read("service.yaml")["spec"]["rayClusterConfig"],
    }


def groups(cluster: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield cluster["headGroupSpec"]
    yield from cluster["workerGroupSpecs"]


def container(group: dict[str, Any]) -> dict[str, Any]:
    (only,) = group["template"]["spec"]["containers"]
    return only


def node_types(cluster: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The groups as KubeRay tells Ray of them: cores and GPUs of a pod are its limits."""
    found = {}
    for group in cluster["workerGroupSpecs"]:
        limits = container(group)["resources"]["limits"]
        have = {"CPU": float(limits["cpu"]), "GPU": float(limits.get("nvidia.com/gpu", 0))}
        found[group["groupName"]] = {"resources": have, "max_workers": group["maxReplicas"]}
    return found


@pytest.mark.parametrize("name", ["cluster.yaml", "job.yaml", "service.yaml"])
def test_kuberay_knows_every_field(schema: Draft202012Validator, name: str) -> None:
    assert [f"{error.json_path}: {error.message}" for error in schema.iter_errors(read(name))] == []


@pytest.mark.parametrize(
    ("name", "path", "value"),
    [
        ("cluster.yaml", "spec.enableInTreeAutoscalling", True),
        ("cluster.yaml", "spec.authOptions.mode", "tokens"),
        ("cluster.yaml", "spec.headGroupSpec.rayStartParams.num-cpus", 0),
        ("cluster.yaml", "metadata.name", "recsys_distill"),
        ("job.yaml", "spec.backoffLimit", 2),
        ("job.yaml", "spec.submissionMode", "SidecarMode"),
        ("service.yaml", "spec.upgradeStrategy.type", "Incremental"),
    ],
)
def test_what_kuberay_would_refuse_or_drop_is_found(
    schema: Draft202012Validator, name: str, path: str, value: object
) -> None:
    changed = read(name)
    *sections, last = path.split(".")
    inner = changed
    for section in sections:
        inner = inner[section]
    inner[last] = value
    assert not schema.is_valid(changed)


@pytest.mark.parametrize("cluster", clusters().values(), ids=list(clusters()))
def test_every_node_shows_the_token_and_knows_the_storage(cluster: dict[str, Any]) -> None:
    assert cluster["authOptions"] == {"mode": "token", "secretName": "recsys-ray-token"}
    assert cluster["rayVersion"] in (ROOT / "requirements.lock").read_text().split("ray==")[1].splitlines()[0]
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0", "no work is placed on the head"
    assert cluster["headGroupSpec"]["rayStartParams"]["num-gpus"] == "0"
    for group in groups(cluster):
        pod = container(group)
        assert pod["envFrom"] == [{"secretRef": {"name": "recsys-storage"}}]
        assert {"name": "RAY_USAGE_STATS_ENABLED", "value": "0"} in pod["env"]
        assert not re.search("KEY|TOKEN|PASSWORD|AWS_", " ".join(entry["name"] for entry in pod["env"]))
        ports = {port["name"]: port["containerPort"] for port in pod["ports"]}
        assert ports.items() <= {**RAY_PORTS, "serve": 8000}.items()
        assert group["rayStartParams"]["metrics-export-port"] == str(ports["metrics"])
        assert pod["resources"]["limits"] == pod["resources"]["requests"], "Ray is told the limits"
    for group in cluster["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_configuration_fits_the_cluster(config: Path) -> None:
    for together in needs(load_config(Settings, config)):
        assert unplaced(together, node_types(clusters()["cluster.yaml"])) == []


def test_no_two_resources_get_the_same_services() -> None:
    """KubeRay names them after the resource: <name>-head-svc."""
    assert read("cluster.yaml")["metadata"]["name"] != read("service.yaml")["metadata"]["name"]
    assert read("job.yaml")["spec"]["clusterSelector"]["ray.io/cluster"] == read("cluster.yaml")["metadata"]["name"]


def test_the_network_is_closed_but_for_ports_that_exist() -> None:
    policy = read("network.yaml")["spec"]
    known = {port["containerPort"] for c in clusters().values() for g in groups(c) for port in container(g)["ports"]}
    assert policy["policyTypes"] == ["Ingress"]
    for rule in policy["ingress"][1:]:
        assert {port["port"] for port in rule["ports"]} <= known - {6379}, "only Ray's own pods reach its control"


def jobs() -> list[str]:
    """The entrypoint of job.yaml, and those that its comments name."""
    comments = re.findall(r"^#   (python -m .+)$", (KUBERAY / "job.yaml").read_text(), flags=re.MULTILINE)
    assert len(comments) == 5
    return [read("job.yaml")["spec"]["entrypoint"], *comments]


@pytest.mark.parametrize("entrypoint", jobs())
def test_jobs_exist_and_take_their_arguments(entrypoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    python, flag, name, *arguments = shlex.split(entrypoint)
    assert (python, flag) == ("python", "-m") and "$" not in entrypoint
    module: ModuleType = importlib.import_module(name)
    calls: list[Any] = []
    monkeypatch.setattr(cli, "run_job", lambda doc, body, parse=None, **_: calls.append(parse))
    module.main()
    args = cli.build_parser(None, *calls).parse_intermixed_args(arguments)
    inside = Path(args.config)
    assert inside.is_relative_to("/app")
    settings = load_config(Settings, ROOT / inside.relative_to("/app"), args.overrides)
    monkeypatch.setenv("RECSYS_STORAGE", "s3://bucket/root")
    assert settings.layout.root == f"s3://bucket/root/{settings.name}", "the storage is the cluster's"


def test_the_service_serves_what_the_configuration_says(
    fixture_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployed = ServeDeploySchema.model_validate(yaml.safe_load(read("service.yaml")["spec"]["serveConfigV2"]))
    (app,) = deployed.applications
    given, shipped = from_dict(Settings, app.args), load_config(Settings, ROOT / "ray_jobs" / "configs" / "gpu.yaml")
    assert (given.name, given.serving) == (shipped.name, shipped.serving)
    assert deployed.http_options.port == 8000 and app.import_path == f"{serve.__name__}:{serve.build.__name__}"
    for group in groups(clusters()["service.yaml"]):
        assert {"name": "serve", "containerPort": 8000} in container(group)["ports"]
        assert {"name": proxy.VARIABLE, "value": proxy.CALLBACK} in container(group)["env"]

    # As `serve build` makes it, from checkpoints of the same names.
    monkeypatch.setenv("RECSYS_STORAGE", str(tmp_path))
    dataset = prepare(DataConfig(path=str(fixture_data)), given.name, report=lambda _: None)
    dataset.write(given.layout.dataset)
    torch.manual_seed(0)
    for uri in (given.layout.teacher, given.layout.student(given.serving.student)):
        save_checkpoint(uri, SASRec(SASRecConfig(width=8), num_items=dataset.num_items), dataset)
    built = build_app(serve.build(dict(app.args)), name=app.name)
    together = []
    for deployment in built.deployments:
        asked = deployment._replica_config.ray_actor_options
        count = deployment._deployment_config.num_replicas
        together.append(Need(deployment.name, count, asked["num_cpus"], asked.get("num_gpus", 0)))
    assert {need.what: bool(need.cpus) for need in together} == {"Teacher": True, "Ingress": True, "Keeper": False}
    together = [need for need in together if need.cpus]
    service = node_types(clusters()["service.yaml"])
    assert unplaced(together, service) == []
    least = {g["groupName"]: g["minReplicas"] for g in clusters()["service.yaml"]["workerGroupSpecs"]}
    assert unplaced(together, {name: {**node, "max_workers": least[name]} for name, node in service.items()}) == []


def test_the_image_holds_what_is_locked() -> None:
    text = (ROOT / "deploy" / "Containerfile").read_text()
    sources = [name for line in re.findall(r"^COPY (.+)$", text, flags=re.MULTILINE) for name in line.split()[:-1]]
    assert {"Makefile", "pyproject.toml", "requirements.lock", "recsys", "ray_jobs"} <= set(sources)
    assert [name for name in sources if not (ROOT / name).exists()] == []
    sent = re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(), flags=re.MULTILINE)
    assert sorted(sent) == sorted(sources), "the builder is sent what is copied, and no more"
    assert "make install PYTHON=python3.11" in text and "USER ray" in text
    images = {container(group)["image"].rpartition(":")[0] for c in clusters().values() for group in groups(c)}
    assert len(images) == 1 and images.pop() in text


def test_the_launcher_accepts_machines_that_are_already_there() -> None:
    cluster = yaml.safe_load((ROOT / "deploy" / "on-premise.yaml").read_text())
    prepared = prepare_config(cluster)
    validate_config(prepared)
    node = prepared["available_node_types"][prepared["head_node_type"]]
    assert node["min_workers"] == node["max_workers"] == len(cluster["provider"]["worker_ips"])
    for role in ("head", "worker"):
        start = cluster[f"{role}_start_ray_commands"][-1]
        assert "RAY_AUTH_MODE=token" in start and "RAY_USAGE_STATS_ENABLED=0" in start
        assert "RECSYS_STORAGE=/" in start and "RECSYS_AUTOSCALING" not in start
        assert f"--metrics-export-port={RAY_PORTS['metrics']}" in start
    assert "--num-cpus=0 --num-gpus=0" in cluster["head_start_ray_commands"][-1]
    assert "~/.ray/auth_token" in cluster["file_mounts"]


def test_the_dashboard_asks_for_metrics_that_there_are() -> None:
    metrics = Metrics()
    metrics.count_request("/recommend", "student", 200, 0.001)
    metrics.count_answer("student", Recommendation([], [], [], False, checkpoint="c", milliseconds=1, waited=1))
    metrics.count_answer("student", Recommendation([], [], [], True))
    metrics.count_feedback()
    metrics.count_failures("challenger", "busy", "student", 1)
    known: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(metrics.text()):
        for sample in family.samples:
            known.setdefault(sample.name, set()).update(sample.labels)
    dashboard = json.loads((ROOT / "deploy" / "grafana.json").read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    asked += [variable["query"] for variable in dashboard["templating"]["list"] if variable["type"] == "query"]
    shown = set()
    for expression in asked:
        (name,) = set(re.findall(r"recsys_\w+", expression))
        shown.add(re.sub("_(bucket|sum|count|total)$", "", name))
        matched = re.findall(r"(\w+) *(?:=~|!=|=)", expression)
        grouped = re.findall(r"by \(([^)]*)\)|label_values\(\w+, (\w+)\)", expression)
        labels = {*matched, *(label.strip() for found in grouped for label in ",".join(found).split(","))} - {""}
        assert name in known and labels <= known[name], expression
    assert shown == {re.sub("_(bucket|sum|count|total|created)$", "", name) for name in known}, "all is shown"


def test_prometheus_asks_where_something_listens() -> None:
    endpoint, ray = yaml.safe_load((ROOT / "deploy" / "prometheus.yaml").read_text())["scrape_configs"]
    assert endpoint["static_configs"][0]["targets"] == [
        f"{read('service.yaml')['metadata']['name']}-serve-svc.recsys:8000"
    ]
    assert endpoint["metrics_path"] == "/metrics"
    (kept,) = [rule["regex"] for rule in ray["relabel_configs"] if "port_name" in rule["source_labels"][0]]
    assert all(kept in {port["name"] for port in container(g)["ports"]} for c in clusters().values() for g in groups(c))
