"""The application over HTTP, with models that are here, busy or away."""

import asyncio
import itertools
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from recsys.data.prepared import Catalogue, PreparedDataset
from recsys.errors import UserError
from recsys.serving import web
from recsys.serving.arms import Absent, Model
from recsys.serving.assignment import Arm, assign
from recsys.serving.events import EventLog, count_clicks, read_events
from recsys.serving.experiment import Experiment, Kept
from recsys.serving.guard import MAX_BODY
from recsys.serving.ranker import Ask, Busy, Ranker
from recsys.serving.recommender import Recommendation, Recommender
from recsys.serving.selection import Selection
from recsys.serving.service import Service
from recsys.serving.web import create_app

PLAIN: dict[str, Any] = {"history": ["i1"]}
TAUGHT: dict[str, Any] = {"history": ["i1"], "arm": "teacher"}


class Full:
    """A model without room."""

    async def rank(self, _: Ask) -> Recommendation:
        raise Busy("64 requests wait already")

    async def rank_together(self, _: Sequence[Ask]) -> list[Recommendation]:
        raise Busy("64 requests wait already")

    async def facts(self) -> dict[str, Any]:
        raise Busy("64 requests wait already")


def client(service: Service, **models: Model) -> TestClient:
    chosen: dict[Arm, Model] = models  # type: ignore[assignment]
    return TestClient(create_app(service, chosen, checkpoints={"teacher": "t0", "student": "s0"}))


@pytest.fixture
def student(recommender: Recommender) -> Ranker:
    return Ranker(recommender)


def test_an_arm_without_room_is_busy_and_says_when_to_ask_again(service: Service, student: Ranker) -> None:
    asked = client(service, teacher=Full(), student=student)
    said = asked.post("/recommend", json={"history": ["i1"], "arm": "teacher"})
    assert (said.status_code, said.headers["retry-after"]) == (503, "1")
    assert said.json() == {"detail": "the arm is busy (64 requests wait already)"}
    assert asked.post("/recommend", json={"history": ["i1"], "arm": "student"}).status_code == 200
    health = asked.get("/health")
    assert (health.status_code, health.json()["status"]) == (200, "ok"), "who is busy answers"
    assert health.json()["arms"]["teacher"]["state"] == "busy"


def test_health_is_told_of_each_arm_and_fails_only_where_none_can_answer(service: Service, student: Ranker) -> None:
    gone = Absent("the teacher was deployed from checkpoint t0, which is t1 now; deploy again")
    asked = client(service, teacher=gone, student=student)
    health = asked.get("/health")
    assert (health.status_code, health.json()["status"]) == (200, "degraded")
    arms = health.json()["arms"]
    assert (arms["teacher"]["state"], arms["teacher"]["checkpoint"]) == ("away", "t0")
    assert arms["teacher"]["reason"].endswith("which is t1 now; deploy again")
    assert (arms["student"]["state"], arms["student"]["checkpoint"]) == ("ready", student.recommender.checkpoint.hash)
    assert arms["null"]["state"] == "ready"
    said = asked.post("/recommend", json={"history": ["i1"], "arm": "teacher"})
    assert said.status_code == 503 and said.headers["retry-after"] == "1" and "deploy again" in said.json()["detail"]
    service.arms = ("teacher",)
    health = asked.get("/health")
    assert (health.status_code, health.json()["status"]) == (503, "unavailable")


def test_every_answer_names_the_checkpoint_that_ranked(service: Service, student: Ranker) -> None:
    asked = client(service, student=student)
    for arm, checkpoint in (("student", student.recommender.checkpoint.hash), ("null", None)):
        said = asked.post("/recommend", json={"history": ["i1"], "arm": arm}).json()
        assert said["checkpoint"] == checkpoint


@pytest.fixture
def api(service: Service, student: Ranker) -> Iterator[TestClient]:
    with client(service, teacher=Full(), student=student) as api:
        yield api


def resolved(schema: dict[str, Any], node: Any) -> Any:
    """A schema that stands by itself."""
    return {**node, "components": schema["components"]}


def lists(most: int) -> list[list[Any]]:
    return [[], ["i1"], ["i1"] * most, ["i1"] * (most + 1), [""], [1], [None]]


def bodies(api: TestClient) -> Iterator[Any]:
    """Values of every kind for every field, at the borders that the schema names, just beyond, and of other types."""
    schema = api.get("/openapi.json").json()
    fields = schema["components"]["schemas"]["RecommendRequest"]["properties"]
    kinds: list[list[Any]] = []
    for name, field in fields.items():
        values: list[Any] = [..., None, 1, "x", "", [], {}, True, 1.5]
        for one in field.get("anyOf", [field]):
            values += [one[bound] + step for bound in ("minimum", "maximum") if bound in one for step in (-1, 0, 1)]
            values += one.get("enum", [])
            if "maxLength" in one:
                values += ["y" * one["maxLength"], "y" * (one["maxLength"] + 1)]
            if one.get("type") == "array":
                assert "maxItems" in one, name
                values += lists(one["maxItems"])
            if one.get("type") == "object":
                inner = one["additionalProperties"]
                for known in (*one["propertyNames"]["enum"], "colour"):
                    values += [{known: 1}, {known: 0}, {known: "x"}, {known: ["Drama"]}, {known: None}]
                    values += [{known: given} for given in lists(inner.get("maxItems", 1))]
        kinds.append([(name, value) for value in values])
    plain = {"history": ["i1"]}
    yield from ([], "text", 1, None, {}, {"other": 1, **plain}, plain, {"user_id": "u3"})
    for chosen in itertools.chain(itertools.product(*kinds[:2]), *(zip(kind) for kind in kinds)):
        given = {name: value for name, value in chosen if value is not ...}
        yield given
        yield {**plain, **given}
    drawn = random.Random(0)
    for _ in range(300):
        yield {name: value for name, value in map(drawn.choice, kinds) if value is not ...}


def test_the_schema_tells_the_truth(api: TestClient) -> None:
    schema = api.get("/openapi.json").json()
    operation = schema["paths"]["/recommend"]["post"]
    accepts = jsonschema.Draft202012Validator(
        resolved(schema, operation["requestBody"]["content"]["application/json"]["schema"])
    )
    answers = {
        status: jsonschema.Draft202012Validator(resolved(schema, said["content"]["application/json"]["schema"]))
        for status, said in operation["responses"].items()
    }
    seen = set()
    for body in bodies(api):
        said = api.post("/recommend", json=body)
        valid = accepts.is_valid(body)
        assert (said.status_code in (200, 503)) == valid, (body, said.text)
        answers[str(said.status_code)].validate(said.json())
        seen.add((said.status_code, valid))
    assert seen == {(200, True), (503, True), (422, False)}


@pytest.mark.parametrize(
    ("path", "bodies_"),
    [
        (
            "/recommend/batch",
            [
                {"requests": requests, **more}
                for requests in ([], [{}], [1], *([PLAIN] * n for n in (4, 5)), [TAUGHT], None)
                for more in ({}, {"k": 1})
            ],
        ),
        (
            "/feedback",
            [
                {"request_id": request_id, "item_id": item_id, **more}
                for request_id in ("r", "", "r" * 160, "r" * 161, 1)
                for item_id in ("i1", "", "x" * 257)
                for more in ({}, {"event": "buy"}, {"event": ""}, {"event": "e" * 65}, {"when": 1})
            ],
        ),
    ],
)
def test_the_schema_tells_the_truth_of_batches_and_feedback(api: TestClient, path: str, bodies_: list[Any]) -> None:
    schema = api.get("/openapi.json").json()
    operation = schema["paths"][path]["post"]
    body_schema = operation["requestBody"]["content"]["application/json"]["schema"]
    accepts = jsonschema.Draft202012Validator(resolved(schema, body_schema))
    seen = set()
    for body in ([], None, {}, *bodies_):
        said = api.post(path, json=body)
        assert (said.status_code != 422) == accepts.is_valid(body), (body, said.text)
        answer = operation["responses"][str(said.status_code)]["content"]["application/json"]["schema"]
        jsonschema.validate(said.json(), resolved(schema, answer))
        seen.add(said.status_code)
    assert len(seen) == (3 if path == "/recommend/batch" else 2), "answered or without room, and refused"


def test_a_batch_is_one_pass_of_each_arm_in_the_order_of_its_requests(
    service: Service, recommender: Recommender
) -> None:
    students, teachers = Ranker(recommender, batch=2), Ranker(recommender, batch=2)
    asked = client(service, student=students, teacher=teachers)
    requests: list[dict[str, Any]] = [
        {"history": ["i1"], "arm": "student", "k": 3},
        {"history": ["i2"], "arm": "teacher", "k": 4, "user_id": "somebody"},
        {"history": ["i3"], "arm": "student", "k": 5, "mask_seen": False},
        {"history": ["i4"], "arm": "null", "k": 2, "exclude": ["i5"]},
    ]
    said = asked.post("/recommend/batch", json={"requests": requests}, headers={"X-Request-ID": "r"})
    assert said.status_code == 200
    answers = said.json()["answers"]
    assert [answer["request_id"] for answer in answers] == ["r.0", "r.1", "r.2", "r.3"]
    assert answers[0]["model_ms"] == answers[2]["model_ms"] != answers[1]["model_ms"], "one pass, one time"
    for request, answer in zip(requests, answers, strict=True):
        alone = asked.post("/recommend", json=request).json()
        assert [item["item_id"] for item in answer["items"]] == [item["item_id"] for item in alone["items"]]
        assert (answer["arm"], answer["user_id"]) == (request["arm"], request.get("user_id"))
    refused = asked.post("/recommend/batch", json={"requests": [*requests[:2], {"history": []}]})
    assert refused.status_code == 422 and refused.json()["detail"].startswith("requests.2.history: history is empty")
    full = client(service, student=students, teacher=Full())
    assert full.post("/recommend/batch", json={"requests": requests}).status_code == 503


def test_items_by_their_id(api: TestClient) -> None:
    said = api.get("/items/i10")
    assert (said.status_code, said.json()["title"]) == (200, "Film number 10")
    assert said.json()["attributes"] == {"genres": ["Comedy", "Horror"]}
    for strange in ("i61", "a/b", "%00", "x" * 99):
        missing = api.get(f"/items/{strange}")
        assert missing.status_code == 404 and missing.json()["detail"].startswith("the catalogue holds no item '")
    assert api.get(f"/items/{'x' * 257}").status_code == 422


def test_a_request_keeps_the_id_it_is_given(api: TestClient) -> None:
    body = {"history": ["i1"], "arm": "student"}
    given = api.post("/recommend", json=body, headers={"X-Request-ID": "of the proxy".replace(" ", "-")}).json()
    made = [api.post("/recommend", json=body).json()["request_id"] for _ in range(2)]
    assert given["request_id"] == "of-the-proxy" and made[0] != made[1] and len(made[0]) == 16
    for bad in ("a b", "x" * 129):
        assert api.post("/recommend", json=body, headers={"X-Request-ID": bad}).status_code == 422


def test_a_selection_and_attributes_through_http(api: TestClient, recommender: Recommender) -> None:
    body = {"history": ["i1"], "arm": "student", "k": 20, "where": {"brand": ["Acme"]}, "only": ["i3", "i5", "i6", "?"]}
    said = api.post("/recommend", json={**body, "attributes": True}).json()
    selection = Selection(only=["i3", "i5"])
    assert [item["item_id"] for item in said["items"]] == recommender.recommend([["i1"]], 20, selection=selection)[0]
    assert said["fewer"] == 18 and said["not_found"] == {"only": ["?"]}
    assert all(item["attributes"]["brand"] == ["Acme"] for item in said["items"])
    assert api.post("/recommend", json=body).json()["items"][0]["attributes"] is None


def test_items_that_were_added_to_a_student_through_http(
    dataset: PreparedDataset, recommender: Recommender, experiment: Kept
) -> None:
    """Two arms of which one alone knows them, and not at the end of the catalogue that requests are read with."""
    known, further = recommender.checkpoint, {"other": "Of another arm", "new1": "Heat 2", "new2": "Third"}
    own = {item: further[item] for item in ("new1", "new2")}
    torch.manual_seed(0)
    vectors = torch.randn(2, 16)
    grown = replace(known, model=known.model.with_items(vectors), catalogue=known.catalogue.extend(own))
    service = Service(
        dataset, arms=("teacher", "student", "null"), experiment=experiment, default_arm="student",
        max_k=60, max_history=30, max_ids=25, max_requests=4, further_items=further,
    )  # fmt: skip
    models = {"teacher": Ranker(recommender), "student": Ranker(Recommender(grown))}
    client = TestClient(create_app(service, models, checkpoints={}))

    def ask(**given: Any) -> dict[str, Any]:
        said = client.post("/recommend", json={"history": ["new2"], "arm": "student", **given})
        assert said.status_code == 200, said.text
        return said.json()

    said = ask(only=["new1", "other", "i3"])
    assert {item["item_id"]: item["title"] for item in said["items"]} == {"new1": "Heat 2", "i3": "Film number 3"}
    assert not said["fallback"] and said["unknown"] == [] and said["not_found"] == {"only": ["other"]}
    assert [item["item_id"] for item in ask(only=["new1", "i3"], exclude=["new1"])["items"]] == ["i3"]
    said = ask(arm="teacher", only=["new1", "i3"])
    assert said["fallback"] and said["unknown"] == ["new2"] and said["not_found"] == {"only": ["new1"]}
    assert client.get("/items/new1").json()["title"] == "Heat 2"
    assert [item["item_id"] for item in client.get("/items?search=heat").json()["items"]] == ["new1"]


def test_feedback_without_a_log_says_how_to_get_one(api: TestClient) -> None:
    said = api.post("/feedback", json={"request_id": "r", "item_id": "i1"})
    assert said.status_code == 409 and "serving.log=true" in said.json()["detail"]


def test_exposures_and_feedback_are_logged(service: Service, student: Ranker, tmp_path: Path) -> None:
    log = EventLog(tmp_path, flush_seconds=0.01)
    with TestClient(create_app(service, {"student": student}, checkpoints={}, log=log)) as asked:
        shown = asked.post("/recommend", json={"user_id": "u1", "arm": "student"}).json()
        asked.post("/recommend/batch", json={"requests": [{"history": ["i1"], "arm": "null"}]})
        given = {"request_id": shown["request_id"], "item_id": shown["items"][2]["item_id"]}
        assert asked.post("/feedback", json=given).status_code == 202
        assert asked.post("/recommend", json={"history": ["i1"], "arm": "student", "k": 0}).status_code == 422
        assert "recsys_feedback_total" in asked.get("/metrics").text
    log.close()
    events = read_events(tmp_path).to_pylist()
    assert [event["kind"] for event in events] == ["exposure", "exposure", "feedback"]
    assert events[0]["items"] == [item["item_id"] for item in shown["items"]]
    for field in (
        "request_id", "user_id", "arm", "assigned_by", "experiment", "answered_by", "failed", "teacher_failed",
        "checkpoint", "fallback", "model_ms", "queue_ms",
    ):  # fmt: skip
        assert events[0][field] == shown[field], field
    assert events[2]["event"] == "click"
    rates = count_clicks(read_events(tmp_path))
    assert rates == {"null": {"shown": 1, "clicked": 0, "rate": 0}, "student": {"shown": 1, "clicked": 1, "rate": 1}}


def samples(asked: TestClient) -> dict[tuple[str, str], float]:
    """By name and by the labels, in their order, beside the replica."""
    return {
        (sample.name, label): sample.value
        for family in text_string_to_metric_families(asked.get("/metrics").text)
        for sample in family.samples
        for label in (" ".join(value for name, value in sorted(sample.labels.items()) if name != "replica"),)
    }


def test_the_student_answers_for_a_busy_teacher_and_it_is_told_counted_and_logged(
    service: Service, student: Ranker, tmp_path: Path
) -> None:
    log = EventLog(tmp_path, flush_seconds=0.01)
    models: dict[Arm, Model] = {"teacher": Full(), "student": student}
    user = next(f"u{n}" for n in range(9) if assign(f"u{n}", service.experiment.current.split, "s") == "teacher")
    with TestClient(create_app(service, models, checkpoints={}, log=log, fallback="student")) as asked:
        said = asked.post("/recommend", json={"user_id": user})
        assert said.status_code == 200
        shown = said.json()
        assert (shown["arm"], shown["answered_by"]) == ("teacher", "student")
        assert (shown["failed"], shown["teacher_failed"]) == ("busy", "busy")
        assert shown["checkpoint"] == student.recommender.checkpoint.hash
        assert asked.post("/recommend", json={"user_id": user, "arm": "teacher"}).status_code == 503
        found = samples(asked)
    log.close()
    assert found["recsys_teacher_fallbacks_total", "busy"] == 1
    for answered_by in ("student", "none"):
        assert found["recsys_failures_total", f"{answered_by} teacher busy"] == 1
    assert found["recsys_model_seconds_count", "student"] == 1
    for status in (200, 503):
        assert found["recsys_requests_total", f"teacher /recommend {status}"] == 1
    event, refused = read_events(tmp_path).to_pylist()
    assert (refused["kind"], refused["arm"], refused["assigned_by"]) == ("failure", "teacher", "request")
    assert (event["arm"], event["answered_by"], event["teacher_failed"], event["experiment"]) == (
        "teacher", "student", "busy", 1,
    )  # fmt: skip
    assert count_clicks(read_events(tmp_path))["teacher"]["shown"] == 1, "by the arm that was assigned"
    without = TestClient(create_app(service, models, checkpoints={}))
    assert without.post("/recommend", json={"user_id": user}).status_code == 503


def test_a_further_arm_is_told_of_wherever_arms_are(service: Service, student: Ranker, experiment: Kept) -> None:
    arms = ("teacher", "student", "null", "challenger")
    split: dict[Arm, float] = {"student": 0.5, "challenger": 0.5}
    service.arms, service.experiment = arms, Kept(Experiment(arms=arms, split=split, salt="s", shadow=0))
    models: dict[Arm, Model] = {"teacher": Full(), "student": student, "challenger": student}
    app = create_app(service, models, checkpoints={"challenger": "c"}, token="secret", fallback="student")
    with TestClient(app) as asked:
        said = asked.post("/recommend", json={**PLAIN, "arm": "challenger"}).json()
        assert (said["arm"], said["answered_by"], said["assigned_by"]) == ("challenger", "challenger", "request")
        given = {asked.post("/recommend", json={"user_id": f"u{n}", **PLAIN}).json()["arm"] for n in range(9)}
        assert given == {"student", "challenger"}
        health = asked.get("/health").json()
        assert list(health["arms"]) == list(arms) and health["arms"]["challenger"]["state"] == "ready"
        assert health["split"] == split
        told = asked.get("/experiment").json()
        assert (told["arms"], told["shadow_arm"]) == (list(arms), "teacher")
        assert change(asked, split={"challenger": 1}).status_code == 200
        assert asked.post("/recommend", json={"user_id": "u1", **PLAIN}).json()["arm"] == "challenger"
        found = samples(asked)
        fields = asked.get("/openapi.json").json()["components"]["schemas"]["RecommendRequest"]["properties"]
        assert fields["arm"]["anyOf"][0]["enum"] == list(arms)
    assert found["recsys_requests_total", "challenger /recommend 200"] > 1
    assert found["recsys_model_seconds_count", "challenger"] > 1


class Hanging(Full):
    """A model that never answers."""

    async def rank(self, _: Ask) -> Recommendation:
        await asyncio.Event().wait()
        raise AssertionError


def change(asked: TestClient, token: str = "secret", **given: Any) -> httpx.Response:
    return asked.put("/experiment", json=given, headers={"Authorization": f"Bearer {token}"})


def test_a_shadow_that_hangs_neither_slows_nor_fails_an_answer(service: Service, student: Ranker) -> None:
    models: dict[Arm, Model] = {"teacher": Hanging(), "student": student}
    app = create_app(service, models, checkpoints={}, token="secret", shadow_at_once=3)
    with TestClient(app) as asked:
        assert change(asked, shadow=1).status_code == 200
        for _ in range(2):
            assert asked.post("/recommend", json=PLAIN).json()["answered_by"] == "student"
        assert asked.post("/recommend/batch", json={"requests": [PLAIN] * 4}).status_code == 200
        assert samples(asked)["recsys_shadow_total", "dropped"] == 3


def test_the_experiment_is_changed_by_who_has_the_token(service: Service, student: Ranker, experiment: Kept) -> None:
    asked = TestClient(create_app(service, {"student": student}, checkpoints={}, token="secret"))
    before = asked.get("/experiment").json()
    assert before | {"changed": None} == {
        "arms": ["teacher", "student", "null"], "split": {"teacher": 0.5, "student": 0.5}, "salt": "s", "shadow": 0,
        "shadow_arm": "teacher", "version": 1, "changed": None,
    }  # fmt: skip
    for token in ("", "secre", "secret2", "sécret".encode().decode("latin-1")):
        refused = asked.put(
            "/experiment", json={"salt": "t"}, headers={"Authorization": f"Bearer {token}".encode("latin-1")}
        )
        assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer"), token
    for headers in ({}, {"Authorization": "Basic secret"}, {"Authorization": "secret"}):
        refused = asked.put("/experiment", json={"salt": "t"}, headers=headers)
        assert refused.status_code == 401 and "Authorization: Bearer" in refused.json()["detail"]
    assert asked.get("/experiment").json() == before
    said = change(asked, split={"student": 1}, shadow=0.25)
    assert said.status_code == 200 and said.json() == asked.get("/experiment").json()
    assert (said.json()["split"], said.json()["salt"], said.json()["shadow"]) == ({"student": 1}, "s", 0.25)
    for n in range(9):
        shown = asked.post("/recommend", json={"user_id": f"u{n}"}).json()
        assert (shown["arm"], shown["experiment"]) == ("student", 2)
    assert asked.get("/health").json()["split"] == {"student": 1}


def test_the_report_of_the_experiment_is_read_once_a_minute(
    service: Service, student: Ranker, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[dict[str, Any]] = []

    def report() -> dict[str, Any]:
        looks.append({"verdict": "keep measuring", "looks": len(looks) + 1})
        return looks[-1]

    client = TestClient(create_app(service, {"student": student}, checkpoints={}, report=report))
    assert [client.get("/experiment/report").json()["looks"] for _ in range(3)] == [1, 1, 1]
    monkeypatch.setattr(web, "REPORT_SECONDS", 0.0)
    assert client.get("/experiment/report").json() == {"verdict": "keep measuring", "looks": 2}

    def nobody() -> dict[str, Any]:
        raise UserError("the log holds no request of the teacher")

    client = TestClient(create_app(service, {"student": student}, checkpoints={}, report=nobody))
    refused = client.get("/experiment/report")
    assert (refused.status_code, refused.json()["detail"]) == (422, "the log holds no request of the teacher")
    client = TestClient(create_app(service, {"student": student}, checkpoints={}))
    assert client.get("/experiment/report").status_code == 409


def test_without_a_token_nobody_may_change_the_experiment(api: TestClient) -> None:
    for headers in ({}, {"Authorization": "Bearer "}, {"Authorization": "Bearer None"}):
        refused = api.put("/experiment", json={"salt": "t"}, headers=headers)
        assert refused.status_code == 403
        assert refused.json() == {
            "detail": "the experiment cannot be changed here; set RECSYS_EXPERIMENT_TOKEN where this runs"
        }


@pytest.mark.parametrize(
    ("given", "detail"),
    [
        (
            {"split": {"teacher": 0.5}},
            "the shares of the split must add up to 1 (got teacher 0.5); name every arm that gets users",
        ),
        ({"shadow": 2}, "shadow: should be less than or equal to 1 (got 2)"),
        ({"seed": 1}, "seed: no such field; known: split, salt, shadow, shadow_arm"),
        (
            {"split": {"techer": 1}},
            "split gives users to techer, which is not one of arms (teacher, student, null)",
        ),
    ],
)
def test_changes_that_are_refused(service: Service, given: dict[str, Any], detail: str) -> None:
    asked = TestClient(create_app(service, {}, checkpoints={}, token="secret"))
    said = change(asked, **given)
    assert (said.status_code, said.json()) == (422, {"detail": detail})


def test_metrics_count_every_outcome_of_every_arm(service: Service, student: Ranker) -> None:
    asked = client(service, student=student, teacher=Full())
    for arm in ("student", "student", "null", "teacher"):
        asked.post("/recommend", json={"history": ["i1"], "arm": arm})
    asked.post("/recommend", json={"history": ["?"], "arm": "student"})
    asked.post("/recommend", json={"history": []})
    asked.post("/recommend", content=b"x" * (MAX_BODY + 1))
    asked.post("/recommend/batch", json={"requests": [{"history": ["i1"], "arm": arm} for arm in ("null", "student")]})
    said = asked.get("/metrics")
    assert said.headers["content-type"].startswith("text/plain; version=0.0.4")
    found = {
        (sample.name, *(sample.labels.get(label) for label in ("path", "arm", "status", "le"))): sample.value
        for family in text_string_to_metric_families(said.text)
        for sample in family.samples
    }
    for arm, status, count in (
        ("student", "200", 3), ("null", "200", 1), ("teacher", "503", 1), ("none", "422", 2),
    ):  # fmt: skip
        assert found["recsys_requests_total", "/recommend", arm, status, None] == count
    assert found["recsys_requests_total", "/recommend/batch", "several", "200", None] == 1
    assert found["recsys_request_seconds_count", "/recommend", "student", None, None] == 3
    assert found["recsys_model_seconds_count", None, "student", None, None] == 3
    assert found["recsys_queue_seconds_count", None, "student", None, None] == 3
    assert found["recsys_fallbacks_total", None, "student", None, None] == 1
    assert ("recsys_request_seconds_bucket", "/recommend", "student", None, "0.00125") in found
    assert ("recsys_model_seconds_count", None, "null", None, None) not in found


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b'{"history": ["\xff"]}', 400),
        (b"[" * 100_000, 400),
        (b'{"history": ["\\ud800"]}', 422),
        (b'{"\\ud800": 1}', 422),
        (b'{"k": NaN, "history": ["i1"]}', 422),
        (b"", 422),
    ],
)
def test_bodies_that_cannot_be_read_are_documented_too(api: TestClient, content: bytes, status: int) -> None:
    schema = api.get("/openapi.json").json()
    said = api.post("/recommend", content=content, headers={"content-type": "application/json"})
    assert said.status_code == status and isinstance(said.json()["detail"], str)
    assert str(status) in schema["paths"]["/recommend"]["post"]["responses"]


def test_what_health_says_is_what_the_schema_says(api: TestClient) -> None:
    schema = api.get("/openapi.json").json()
    content = schema["paths"]["/health"]["get"]["responses"]["200"]["content"]["application/json"]
    jsonschema.validate(api.get("/health").json(), resolved(schema, content["schema"]))
    assert set(schema["paths"]["/health"]["get"]["responses"]) == {"200", "503"}


def test_the_page_loads_nothing_from_elsewhere_and_shows_every_field(api: TestClient) -> None:
    said = api.get("/docs")
    assert said.headers["content-type"].startswith("text/html")
    assert not re.search(r"https?://|//[a-z]|src=|@import|<link", said.text)
    schema = api.get("/openapi.json").json()
    for name in ("RecommendRequest", "RecommendResponse", "Health"):
        for field, facts in schema["components"]["schemas"][name]["properties"].items():
            assert f"<code>{field}</code>" in said.text and facts.get("description", "").split("'")[0] in said.text
    assert "integer, from 1, to 20" in said.text
    assert said.text.count('id="try"') == 1


def test_requests_are_answered_side_by_side(service: Service, student: Ranker) -> None:
    app = create_app(service, {"student": student}, checkpoints={})

    async def ask_many() -> list[httpx.Response]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as asked:
            return await asyncio.gather(*(asked.post("/recommend", json={"history": ["i1"]}) for _ in range(20)))

    assert {said.status_code for said in asyncio.run(ask_many())} == {200}


TITLED = {"Star Wars": 5, "The Last Starfighter": 9, "STAR Trek": 7, "Émile <b>": 3, "": 1}


@pytest.fixture
def titled(dataset: PreparedDataset) -> TestClient:
    """A catalogue with titles, more popular ones with larger counts."""
    catalogue = Catalogue(
        item_ids=["", *[f"i{n}" for n in range(1, 6)]],
        titles=["", *TITLED],
        train_counts=np.array([0, *TITLED.values()]),
    )
    service = Service(
        replace(dataset, catalogue=catalogue), arms=("null",), default_arm="null",
        experiment=Kept(Experiment(arms=("null",), split={"null": 1.0}, salt="s", shadow=0)),
        max_k=5, max_history=5, max_ids=5, max_requests=1,
    )  # fmt: skip
    return TestClient(create_app(service, {}, checkpoints={}))


@pytest.mark.parametrize(
    ("search", "found"),
    [
        ("star", ["STAR Trek", "Star Wars", "The Last Starfighter"]),
        ("STAR W", ["Star Wars"]),
        ("e\u0301MILE", ["Émile <b>"]),  # decomposed
        ("last", ["The Last Starfighter"]),
        ("I5", [""]),  # without a title, by its id
        ("i1", []),
        ("", ["The Last Starfighter", "STAR Trek", "Star Wars", "Émile <b>", ""]),
    ],
)
def test_items_are_found_by_title(titled: TestClient, search: str, found: list[str]) -> None:
    said = titled.get("/items", params={"search": search})
    assert said.status_code == 200
    assert ([item["title"] for item in said.json()["items"]], said.json()["more"]) == (found, False)


def test_a_search_is_limited(titled: TestClient) -> None:
    said = titled.get("/items", params={"search": "star", "limit": 2}).json()
    assert ([item["item_id"] for item in said["items"]], said["more"]) == (["i3", "i1"], True)
    for bad, sentence in (
        ({"limit": 0}, "limit: should be greater than or equal to 1"),
        ({"limit": 51}, "limit: should be less than or equal to 50"),
        ({"search": "x" * 101}, "search: String should have at most 100"),
    ):
        refused = titled.get("/items", params=bad)
        assert refused.status_code == 422 and refused.json()["detail"].startswith(sentence)


def test_requests_without_an_answer_are_logged_for_their_arm(service: Service, tmp_path: Path) -> None:
    log = EventLog(tmp_path)
    asked = TestClient(create_app(service, {"teacher": Full(), "student": Absent("gone")}, checkpoints={}, log=log))
    users = {assign(f"u{n}", service.experiment.current.split, "s"): f"u{n}" for n in range(9)}
    for arm, user_id in users.items():
        body = {"user_id": user_id, "history": ["i1"]}
        assert asked.post("/recommend", json=body, headers={"x-request-id": arm}).status_code == 503
        assert asked.post("/recommend/batch", json={"requests": [body]}).status_code == 503
    assert asked.post("/recommend", json={"user_id": "u1", "k": 0}).status_code == 422, "asks for what cannot be"
    log.close()
    rows = read_events(tmp_path).to_pylist()
    assert {(row["kind"], row["arm"], row["user_id"], row["assigned_by"]) for row in rows} == {
        ("failure", arm, user_id, "user") for arm, user_id in users.items()
    }
    assert len(rows) == 4 and {"teacher", "student"} < {row["request_id"] for row in rows}
    assert count_clicks(read_events(tmp_path)) == {}
