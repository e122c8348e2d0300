"""The application over real HTTP, with random-initialised models: what it answers, refuses, and how it is measured."""

import asyncio
import contextlib
import itertools
import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from prometheus_client.parser import text_string_to_metric_families

from ray_jobs.serving import application as serve
from ray_jobs.serving import measurement as measure_ab
from recsys import storage
from recsys.checkpoint import save_checkpoint
from recsys.data.config import DataConfig
from recsys.data.prepare import prepare
from recsys.data.prepared import PreparedDataset
from recsys.errors import UserError
from recsys.model import SequentialRecommender
from recsys.ports import free_port
from recsys.serving.assignment import assign
from recsys.serving.client import Client
from recsys.serving.config import ArmConfig, ReplicasConfig, ServingConfig
from recsys.serving.events import count_clicks, read_events
from recsys.serving.recommender import Recommender
from recsys.serving.selection import Selection
from recsys.serving.service import RecommendRequest, RecommendResponse
from recsys.settings import Settings
from recsys.students.config import SASRecConfig
from recsys.students.sasrec import SASRec
from recsys.teachers.config import HLLMConfig
from recsys.teachers.hllm import HLLM
from recsys.tracking import TrackingConfig
from tests.integration.commands import processes

MARKER = "RECSYS_TEST_SESSION"  # in the environment of whatever this session starts (tests/conftest.py)
pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def settings(fixture_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A dataset, and checkpoints of a random-initialised teacher and students; five arms."""
    settings = Settings(
        name="served",
        storage=str(tmp_path_factory.mktemp("serving")),
        serving=ServingConfig(
            student="small",
            port=free_port(),
            max_history=200,
            measure_requests=12,
            measure_warmup=3,
            log=True,
            teacher_seconds=8,
            further_arms={
                "challenger": ArmConfig(model="other", replicas=ReplicasConfig(cpus=0.1), queue=8, seconds=8),
                "inside": ArmConfig(model="other", in_ingress=True),
            },
        ),
        tracking=TrackingConfig(uri="none"),
    )
    config = DataConfig(path=str(fixture_data))
    dataset = prepare(config, "served", report=lambda _: None)
    dataset.write(settings.layout.dataset)
    torch.manual_seed(0)
    models: dict[str, SequentialRecommender] = {
        settings.layout.teacher: HLLM(HLLMConfig(width=16, heads=2, item_width=8), num_items=dataset.num_items),
        settings.layout.student("small"): SASRec(SASRecConfig(width=16), num_items=dataset.num_items),
        settings.layout.student("other"): SASRec(SASRecConfig(width=24), num_items=dataset.num_items),
    }
    for uri, model in models.items():
        save_checkpoint(uri, model, dataset)
    return settings


ARMS = ("teacher", "student", "null", "challenger", "inside")


def checkpoints(settings: Settings) -> dict[str, str]:
    """Where those of the arms that have one lie."""
    student, other = (settings.layout.student(name) for name in ("small", "other"))
    return {"teacher": settings.layout.teacher, "student": student, "challenger": other, "inside": other}


@pytest.fixture(scope="module")
def dataset(settings: Settings) -> PreparedDataset:
    return PreparedDataset.load(settings.layout.dataset)


@pytest.fixture(scope="module")
def url(settings: Settings, ray_session: None) -> Iterator[str]:
    address = serve.deploy(settings)
    yield address
    serve.undeploy()


@pytest.fixture
def client(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, trust_env=False, timeout=30) as client:
        yield client


def test_arms_answer_what_their_checkpoints_recommend(
    client: httpx.Client, settings: Settings, dataset: PreparedDataset
) -> None:
    history = ["50", "nothing", "172", "1"]
    for arm, checkpoint in checkpoints(settings).items():
        answer = client.post("/recommend", json={"history": history, "k": 5, "arm": arm})
        assert answer.status_code == 200
        said = answer.json()
        recommender = Recommender.load(checkpoint)
        (expected,) = recommender.rank([history], k=5)
        assert [item["item_id"] for item in said["items"]] == expected.items
        assert [item["title"] for item in said["items"]] == recommender.titles(expected.items)
        assert [item["score"] for item in said["items"]] == pytest.approx(expected.scores, abs=1e-4)
        assert (said["arm"], said["assigned_by"], said["unknown"]) == (arm, "request", expected.unknown)
        assert said["model_ms"] > 0 and not said["fallback"]
        assert said["checkpoint"] == recommender.checkpoint.hash
        (unmasked,) = recommender.recommend([history], k=60, mask_seen=False)
        said = client.post("/recommend", json={"history": history, "k": 60, "arm": arm, "mask_seen": False}).json()
        assert [item["item_id"] for item in said["items"]] == unmasked
    said = client.post("/recommend", json={"history": history, "k": 5, "arm": "null"}).json()
    popular = [dataset.catalogue.item_ids[i] for i in dataset.catalogue.popular()[:5]]
    assert [item["item_id"] for item in said["items"]] == popular and said["model_ms"] == 0


def test_every_arm_selects_alike_and_tells_attributes(
    client: httpx.Client, settings: Settings, dataset: PreparedDataset
) -> None:
    wanted = {"where": {"genres": ["Drama", "Horror"]}, "exclude": ["3", "?"], "at_most": {"genres": 2}}
    requests = [{"history": ["50", "1"], "k": 6, "arm": arm, **wanted} for arm in ARMS]
    said = client.post("/recommend/batch", json={"requests": [{**one, "attributes": True} for one in requests]})
    assert said.status_code == 200
    for request, answer in zip(requests, said.json()["answers"], strict=True):
        assert answer["arm"] == request["arm"] and answer["not_found"] == {"exclude": ["?"]}
        genres = [item["attributes"]["genres"] for item in answer["items"]]
        assert sorted(genres) == [["Drama"]] * 2 + [["Horror"]] * 2 and answer["fewer"] == 2
        alone = client.post("/recommend", json=request).json()
        assert [item["item_id"] for item in alone["items"]] == [item["item_id"] for item in answer["items"]]
    recommender = Recommender.load(settings.layout.student("small"))
    (expected,) = recommender.recommend([["50", "1"]], 6, selection=Selection(**wanted))
    assert [item["item_id"] for item in said.json()["answers"][1]["items"]] == expected
    item = client.get("/items/3").json()
    assert (
        item["attributes"] == {"genres": ["Drama"]}
        and item["title"] == dataset.catalogue.titles[dataset.catalogue.index["3"]]
    )
    assert client.get("/items/nothing").status_code == 404


def test_metrics_are_of_all_replicas(client: httpx.Client) -> None:
    def counts() -> dict[str, float]:
        text = client.get("/metrics").text
        found: dict[str, float] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name == "recsys_requests_total" and sample.labels["arm"] == "null":
                    found[sample.labels["replica"]] = sample.value
        return found

    before = sum(counts().values())
    for _ in range(40):
        client.post("/recommend", json={"history": ["50"], "arm": "null"}).raise_for_status()
    after = [counts() for _ in range(4)]
    assert [sum(one.values()) for one in after] == [before + 40] * 4, "whoever is asked tells of both"


def test_clicks_come_to_the_log(client: httpx.Client, settings: Settings) -> None:
    shown = client.post("/recommend", json={"user_id": "1", "arm": "student"}, headers={"x-request-id": "mine"}).json()
    assert shown["request_id"] == "mine"
    with Client(str(client.base_url)) as one:
        one.give_feedback("mine", shown["items"][0]["item_id"])
    deadline = time.monotonic() + 20
    while not (clicks := count_clicks(read_events(settings.layout.events)).get("student", {}).get("clicked")):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert clicks == 1


def test_the_experiment_is_reported_while_it_runs(client: httpx.Client, settings: Settings) -> None:
    for arm in ("teacher", "student"):
        asked = {"user_id": users_of(arm, settings)[0], "history": ["50"]}
        client.post("/recommend", json=asked).raise_for_status()
    deadline = time.monotonic() + 30
    while (said := client.get("/experiment/report")).status_code != 200:
        assert said.status_code == 422 and "the log holds no request of a user" in said.json()["detail"]
        assert time.monotonic() < deadline
        time.sleep(0.5)
    assert said.json()["verdict"] == "keep measuring" and said.json()["arms"].keys() == {"teacher", "student"}


def test_users_stay_on_their_arm_and_bring_their_history(
    client: httpx.Client, settings: Settings, dataset: PreparedDataset
) -> None:
    config = settings.serving
    for user, user_id in enumerate(dataset.user_ids[:6]):
        said = client.post("/recommend", json={"user_id": user_id, "k": 3}).json()
        assert (said["arm"], said["assigned_by"]) == (assign(user_id, config.split, config.salt), "user")
        ids = dataset.catalogue.item_ids
        history = [ids[i] for i in dataset.items[dataset.offsets[user] : dataset.offsets[user + 1]]]
        given = client.post("/recommend", json={"history": history, "k": 3, "arm": said["arm"]}).json()
        assert said["items"] == given["items"]
    stranger = client.post("/recommend", json={"user_id": "nobody knows", "k": 3}).json()
    assert stranger["fallback"] and stranger["unknown_user"] and len(stranger["items"]) == 3
    unknown = client.post("/recommend", json={"history": ["?"], "k": 3, "arm": "teacher"}).json()
    assert unknown["fallback"] and unknown["unknown"] == ["?"]


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({"history": ["50"], "k": 0}, "k must be between 1 and 60 (got 0)"),
        ({"history": ["50"], "k": 61}, "k must be between 1 and 60 (got 61)"),
        ({"history": []}, "history is empty; give at least one item id, or leave it out and give a user_id"),
        ({}, "give a user_id, a history, or both"),
        ({"history": ["50"] * 201}, "history has 201 items; at most 200 are accepted"),
        ({"history": ["50"], "arm": "x"}, f"arm 'x' is not served here; served: {', '.join(ARMS)}"),
        ({"user": "1"}, f"user: no such field; known: {', '.join(RecommendRequest.model_fields)}"),
        ({"history": ["50"], "where": {"genre": ["Drama"]}}, "items have no attribute 'genre'; known: genres"),
        ({"history": ["50"], "only": ["1"] * 10_001}, "only has 10001 ids; at most 10000 are accepted"),
        ({"history": ["5" * 300] * 5000}, "the body is longer than 1048576 bytes; shorten the history"),
        ("{", "the body is not valid JSON"),
    ],
    ids=lambda value: None if isinstance(value, str) else str(value)[:40],
)
def test_bad_requests_get_one_clear_sentence(client: httpx.Client, body: object, sentence: str) -> None:
    content = {"content": body} if isinstance(body, str) else {"json": body}
    answer = client.post("/recommend", headers={"content-type": "application/json"}, **content)  # type: ignore[arg-type]
    assert (answer.status_code, answer.json()) == (422, {"detail": sentence})


def test_slow_bodies_and_headers_that_are_no_text_harm_nobody(client: httpx.Client, url: str) -> None:
    address = (str(client.base_url.host), client.base_url.port or 0)
    with contextlib.ExitStack() as held:
        for _ in range(300):
            connection = held.enter_context(socket.create_connection(address, timeout=30))
            connection.sendall(b"POST /recommend HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
        assert client.get("/health", timeout=8).json()["status"] == "ok"
        for arm in ("teacher", "student", "null"):
            assert client.post("/recommend", json={"history": ["50"], "arm": arm}, timeout=8).status_code == 200
        assert b" 408 " in connection.recv(100), "each has its deadline"
    for name in ("X-Request-ID", "X-Session-Id", "serve_multiplexed_model_id"):
        with socket.create_connection(address, timeout=30) as connection:
            connection.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n" + name.encode() + b": a\xff\r\n\r\n")
            assert b" 400 " in connection.recv(100), name


def users_of(arm: str, settings: Settings) -> list[str]:
    """Users that get an arm as it was deployed."""
    config = settings.serving
    return [user for user in map(str, range(100)) if assign(user, config.split, config.salt) == arm]


def actors(name: str) -> list[int]:
    """The processes of this session's actors of that name."""
    found = processes(f"{MARKER}={os.environ[MARKER]}")
    return [int(pid) for pid in found if name.encode() in Path("/proc", pid, "cmdline").read_bytes()]


def test_a_teacher_that_hangs_refuses_who_finds_no_room_and_harms_no_other_arm(url: str, settings: Settings) -> None:
    def ask(arm: str, count: int, seconds: float) -> list[httpx.Response | httpx.TimeoutException]:
        async def one(client: httpx.AsyncClient) -> httpx.Response | httpx.TimeoutException:
            try:
                return await client.post("/recommend", json={"history": ["50"], "arm": arm})
            except httpx.TimeoutException as error:
                return error

        async def all_at_once() -> list[httpx.Response | httpx.TimeoutException]:
            limits = httpx.Limits(max_connections=count)
            async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=seconds, limits=limits) as client:
                return await asyncio.gather(*(one(client) for _ in range(count)))

        return asyncio.run(all_at_once())

    (pid,) = actors("ServeReplica:recsys:Teacher")
    os.kill(pid, signal.SIGSTOP)
    try:
        answers = [said for said in ask("teacher", 300, 6) if isinstance(said, httpx.Response)]
        assert answers and {said.status_code for said in answers} == {503}
        assert {(said.headers["retry-after"], "busy" in said.json()["detail"]) for said in answers} == {("1", True)}
        assert all(isinstance(said, httpx.Response) and said.status_code == 200 for said in ask("student", 3, 6))
        with Client(url) as client:
            said = client.recommend(user_id=users_of("teacher", settings)[0], history=["50"])
        assert (said.arm, said.answered_by) == ("teacher", "student") and said.teacher_failed in ("busy", "timeout")
    finally:
        os.kill(pid, signal.SIGCONT)
    with httpx.Client(base_url=url, trust_env=False, timeout=60) as client:
        assert client.post("/recommend", json={"history": ["50"], "arm": "teacher"}).status_code == 200


@pytest.mark.full
@pytest.mark.faults
@pytest.mark.parametrize(("lost", "number"), [("ServeReplica:recsys:Ingress", 2), ("ProxyActor", 1)])
def test_a_lost_replica_is_not_noticed_and_a_lost_proxy_comes_back(url: str, lost: str, number: int) -> None:
    pids = actors(lost)
    assert len(pids) == number
    with Client(url) as client:
        os.kill(pids[0], signal.SIGKILL)
        for _ in range(20):
            assert client.recommend(history=["50"], arm="student").items
    while len(actors(lost)) < number:
        time.sleep(0.1)


def change(url: str, **given: object) -> dict[str, Any]:
    """Change the experiment, and wait until all replicas tell of it."""
    address, headers = f"{url}/experiment", {"Authorization": "Bearer secret"}
    deadline, seen = time.monotonic() + 200, 0
    while (said := httpx.put(address, json=given, headers=headers, trust_env=False, timeout=60)).status_code == 503:
        assert time.monotonic() < deadline, said.text
        time.sleep(0.2)
    said.raise_for_status()
    while seen < 20:  # in a row, each over a connection of its own
        same = httpx.get(address, trust_env=False, timeout=60).json() == said.json()
        seen = seen + 1 if same else 0
        assert time.monotonic() < deadline
    return said.json()


@pytest.fixture
def experiment(url: str, settings: Settings) -> Iterator[str]:
    """The URL of an application whose experiment is put back afterwards."""
    yield url
    config = settings.serving
    change(url, split=config.split, salt=config.salt, shadow=config.shadow, shadow_arm=config.shadow_arm)


def test_a_change_of_the_experiment_reaches_all_replicas_and_moves_who_must(
    experiment: str, client: httpx.Client, settings: Settings
) -> None:
    assert client.put("/experiment", json={"salt": "x"}).status_code == 401
    before, after = {"teacher": 0.5, "student": 0.5}, {"teacher": 0.2, "student": 0.8}
    said = change(experiment, split=after)
    assert client.get("/health").json()["split"] == after
    assert storage.read_json(settings.layout.experiment)["current"] == said
    moved = [user for user in users_of("teacher", settings) if assign(user, after, settings.serving.salt) == "student"]
    for user, arm in (*((user, "student") for user in moved[:3]), (users_of("student", settings)[0], "student")):
        answer = client.post("/recommend", json={"user_id": user, "history": ["50"]}).json()
        assert (answer["arm"], answer["experiment"]) == (arm, said["version"])
    assert set(before) == set(after) and moved


def test_the_teacher_repeats_unseen_what_the_student_answers(
    experiment: str, client: httpx.Client, settings: Settings
) -> None:
    change(experiment, shadow=1)
    request = {"history": ["50", "172"], "k": 7, "arm": "student"}
    shown = client.post("/recommend", json=request, headers={"X-Request-ID": "shadowed"}).json()
    assert shown["answered_by"] == "student"
    deadline, found = time.monotonic() + 30, []
    while not found:
        assert time.monotonic() < deadline
        events = read_events(settings.layout.events).to_pylist()
        found = [one for one in events if (one["kind"], one["request_id"]) == ("shadow", "shadowed")]
        time.sleep(0.1)
    (expected,) = Recommender.load(settings.layout.teacher).recommend([request["history"]], k=7)
    assert found[0]["items"] == expected and found[0]["model_ms"] > 0
    common = set(expected) & {item["item_id"] for item in shown["items"]}
    assert found[0]["agreement"] == pytest.approx(len(common) / 7)
    assert 'recsys_shadow_total{outcome="compared"' in client.get("/metrics").text


def test_further_arms_get_users_and_repeat_unseen(experiment: str, client: httpx.Client, settings: Settings) -> None:
    split = {"student": 0.4, "challenger": 0.3, "inside": 0.2, "null": 0.1}
    said = change(experiment, split=split, shadow=1, shadow_arm="challenger")
    assert said["arms"] == list(ARMS)
    seen = set()
    for user in map(str, range(30)):
        answer = client.post(
            "/recommend", json={"user_id": user, "history": ["50"]}, headers={"X-Request-ID": f"f{user}"}
        )
        told = answer.json()
        assert told["arm"] == told["answered_by"] == assign(user, split, said["salt"])
        seen.add(told["arm"])
    assert seen == set(split)
    deadline, found = time.monotonic() + 30, []
    while not found:
        assert time.monotonic() < deadline
        events = read_events(settings.layout.events).to_pylist()
        found = [one for one in events if one["kind"] == "shadow" and one["answered_by"] == "challenger"]
        time.sleep(0.1)
    assert assign(found[0]["user_id"], split, said["salt"]) == "student"
    (expected,) = Recommender.load(settings.layout.student("other")).recommend([["50"]], k=10)
    assert found[0]["items"] == expected


@pytest.mark.full
@pytest.mark.faults
def test_a_lost_replica_of_a_further_arm_costs_no_answer_and_comes_back(experiment: str, settings: Settings) -> None:
    said = change(experiment, split={"student": 0.5, "challenger": 0.5})
    user = next(user for user in map(str, range(100)) if assign(user, said["split"], said["salt"]) == "challenger")
    (pid,) = actors("ServeReplica:recsys:Arm-challenger")
    os.kill(pid, signal.SIGKILL)
    deadline, answered_by = time.monotonic() + 240, []
    with httpx.Client(base_url=experiment, trust_env=False, timeout=60) as client:
        while answered_by[-3:] != ["challenger"] * 3 or actors("ServeReplica:recsys:Arm-challenger") in ([], [pid]):
            assert time.monotonic() < deadline, answered_by
            answer = client.post("/recommend", json={"user_id": user, "history": ["50"]})
            assert answer.status_code == 200, answer.text
            said = answer.json()
            assert said["arm"] == "challenger" and (said["failed"] is None) == (said["answered_by"] == "challenger")
            answered_by.append(said["answered_by"])
            assert client.post("/recommend", json={"history": ["50"], "arm": "inside"}).status_code == 200


@pytest.mark.full
@pytest.mark.faults
def test_the_experiment_outlives_the_actor_that_keeps_it(experiment: str) -> None:
    said = change(experiment, salt="another")
    (pid,) = actors("ServeReplica:recsys:Keeper")
    os.kill(pid, signal.SIGKILL)
    assert httpx.get(f"{experiment}/experiment", trust_env=False).json() == said
    again = change(experiment, shadow=0.5)
    assert (again["salt"], again["version"]) == ("another", said["version"] + 1)


@pytest.mark.full
@pytest.mark.timeout(900)  # all replicas start three times
def test_another_checkpoint_and_the_way_back_cost_no_request(
    url: str, settings: Settings, dataset: PreparedDataset, tmp_path: Path
) -> None:
    """Deployed again twice under load: from one client that asks again and one that does not, nothing fails."""
    uris = {"teacher": settings.layout.teacher, "student": settings.layout.student("small")}
    stop, failures, answers = threading.Event(), [], []

    def ask_again() -> None:
        with Client(url) as client:
            for user in itertools.cycle(dataset.user_ids):
                if stop.is_set():
                    return
                try:
                    answers.append(client.recommend(user_id=user))
                except UserError as error:
                    failures.append(f"client: {error}")

    def ask_once() -> None:
        with httpx.Client(base_url=url, trust_env=False, timeout=60) as client:
            for user in itertools.cycle(dataset.user_ids):
                if stop.is_set():
                    return
                try:
                    said = client.post("/recommend", json={"user_id": user})
                    if said.status_code != 200:
                        failures.append(f"{said.status_code} {said.text}")
                    else:
                        answers.append(RecommendResponse.model_validate(said.json()))
                except httpx.HTTPError as error:
                    failures.append(repr(error))

    def hashes() -> dict[str, str]:
        return {arm: storage.read_manifest(uri).content_hash for arm, uri in uris.items()}  # type: ignore[union-attr]

    def wait_for_answers(expected: dict[str, str]) -> None:
        begun, deadline = len(answers), time.monotonic() + 60
        while len(answers) < begun + 20:
            assert time.monotonic() < deadline, failures
            time.sleep(0.05)
        late = [answer for answer in answers[begun + 4 :] if answer.checkpoint]  # two may have been on their way
        assert {answer.checkpoint for answer in late} <= set(expected.values())

    first = hashes()
    threads = [threading.Thread(target=asking) for asking in (ask_again, ask_once)]
    for thread in threads:
        thread.start()
    try:
        wait_for_answers(first)
        for arm, uri in uris.items():
            shutil.copytree(uri, tmp_path / arm)
            save_checkpoint(uri, SASRec(SASRecConfig(width=24), num_items=dataset.num_items), dataset)
        second = hashes()
        assert not set(second.values()) & set(first.values())
        serve.deploy(settings)
        wait_for_answers(second)
        for arm, uri in uris.items():
            shutil.rmtree(uri)
            shutil.copytree(tmp_path / arm, uri)
        serve.deploy(settings)
        wait_for_answers(first)
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)
    assert not failures
    assert not [answer for answer in answers if answer.teacher_failed], "the student need not answer for the teacher"


@pytest.mark.full
@pytest.mark.timeout(900)
def test_a_deployment_that_fails_leaves_what_ran_before(
    url: str, settings: Settings, client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    pinned = serve.check(settings)
    monkeypatch.setattr(serve, "check", lambda _: replace(pinned, dataset=("served", "0" * 64)))
    with pytest.raises(UserError, match=r"the serving replicas did not start .* which is \w{12} now; deploy again"):
        serve.deploy(settings)
    monkeypatch.undo()
    for arm in ARMS:
        for _ in range(8):
            said = client.post("/recommend", json={"history": ["50"], "arm": arm})
            assert said.status_code == 200 and said.json()["checkpoint"] == pinned.checkpoints.get(arm)
    serve.deploy(settings)
    assert client.get("/health").json()["status"] == "ok"


def test_health_and_the_openapi_page(client: httpx.Client, settings: Settings, dataset: PreparedDataset) -> None:
    said = client.get("/health").json()
    uris = checkpoints(settings)
    hashes = {arm: storage.read_manifest(uri).content_hash for arm, uri in uris.items()}  # type: ignore[union-attr]
    assert said["status"] == "ok" and {facts["state"] for facts in said["arms"].values()} == {"ready"}
    assert {arm: facts.get("checkpoint") for arm, facts in said["arms"].items()} == {**hashes, "null": None}
    assert said["dataset"] == {"name": "served", "fingerprint": dataset.fingerprint}
    assert client.get("/docs").status_code == 200
    assert "default-src 'none'" in client.get("/").headers["content-security-policy"]
    assert len(client.get("/items", params={"search": "comedy", "limit": 3}).json()["items"]) == 3
    assert "RecommendRequest" in client.get("/openapi.json").text


def test_the_arms_are_measured_against_each_other(url: str, settings: Settings, capsys) -> None:
    figures = measure_ab.run(settings)
    assert figures["served"].keys() == set(ARMS)
    for row in figures["arms"].values():
        assert (row["requests"], row["errors"]) == (12, 0)
        assert 0 < row["p50_ms"] <= row["p95_ms"] <= row["p99_ms"]
    arms, ratios = figures["arms"], figures["ratios"]
    assert ratios["teacher_over_student"] == pytest.approx(arms["teacher"]["p50_ms"] / arms["student"]["p50_ms"])
    assert storage.read_json(storage.join(settings.layout.results, "ab.json")) == figures
    assert "teacher / student, end-to-end" in capsys.readouterr().out
    assert measure_ab.run(settings) == figures, "kept, because nothing has changed"
    assert "unchanged, kept" in capsys.readouterr().out
    several = replace(settings, serving=replace(settings.serving, measure_concurrency=3))
    assert measure_ab.run(several, address=url)["arms"]["null"]["errors"] == 0


def test_the_arms_are_measured_under_load(url: str, settings: Settings, capsys) -> None:
    under = replace(
        settings.serving, measure_rates=(20.0,), measure_connections=(2,), measure_seconds=1, measure_settle=0.2
    )
    figures = measure_ab.run(replace(settings, serving=under), address=url)
    for name in ("open_loop", "closed_loop"):
        rows = figures["load"][name]["arms"]
        assert rows.keys() == set(ARMS)
        for (row,) in rows.values():
            assert row["requests"] > 0 and not row["errors"]
            if row["answered"]:  # a busy machine may answer none in a second
                assert row["cpu_seconds_per_million"] > 0
    assert "requests a second with p99 ≤ 100 ms and < 1 % unanswered: teacher" in capsys.readouterr().out
    page = storage.read_bytes(storage.join(settings.layout.results, "ab_report.html")).decode()
    assert "At a rate" in page and "At a number of connections" in page
    assert storage.read_json(storage.join(settings.layout.results, "ab.json")) == figures


def test_a_server_of_something_else_is_not_measured_by_mistake(url: str, settings: Settings) -> None:
    other = replace(settings, serving=replace(settings.serving, arms=("student", "null"), split={"student": 1.0}))
    with pytest.raises(UserError, match=r"serves something else; stop it, choose another serving\.port"):
        measure_ab.run(other, force=True)


def test_a_port_in_use_is_one_clear_line(ray_session: None, settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = replace(settings.serving, port=other.getsockname()[1])
        # In random order, Serve may run here already for the tests beside this one.
        with pytest.raises(UserError, match=r"port \d+ of 127.0.0.1 is in use|Serve already runs on this cluster, but"):
            serve.deploy(replace(settings, serving=taken))


def test_serve_that_listens_elsewhere_is_one_clear_line(url: str, settings: Settings) -> None:
    with pytest.raises(UserError, match=r"Ray Serve already runs on this cluster, but not at 127\.0\.0\.1"):
        serve.deploy(replace(settings, serving=replace(settings.serving, port=free_port())))


def test_a_teacher_of_another_dataset_is_refused_before_anything_starts(
    settings: Settings, dataset: PreparedDataset, tmp_path: Path
) -> None:
    mixed = replace(settings, storage=str(tmp_path), serving=replace(settings.serving, further_arms={}))
    dataset.write(mixed.layout.dataset)
    other = replace(dataset, name="other", user_ids=[f"x{user}" for user in dataset.user_ids], fingerprint="")
    student = SASRec(SASRecConfig(width=16), num_items=dataset.num_items)
    save_checkpoint(mixed.layout.student("small"), student, dataset)
    save_checkpoint(mixed.layout.teacher, student, other)
    with pytest.raises(UserError, match="the teacher was trained on dataset 'other'"):
        serve.deploy(mixed)


def test_a_checkpoint_cut_short_is_refused_before_anything_starts(
    settings: Settings, dataset: PreparedDataset, tmp_path: Path
) -> None:
    cut = replace(settings, storage=str(tmp_path), serving=replace(settings.serving, further_arms={}))
    dataset.write(cut.layout.dataset)
    student = SASRec(SASRecConfig(width=16), num_items=dataset.num_items)
    for uri in (cut.layout.teacher, cut.layout.student("small")):
        save_checkpoint(uri, student, dataset)
    weights = Path(cut.layout.teacher, "model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"checkpoint of the teacher .* is damaged"):
        serve.deploy(cut)
