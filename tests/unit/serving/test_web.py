"""The application over HTTP, with models that are here, busy or away."""

import asyncio
import itertools
import random
import re
from collections.abc import Iterator
from typing import Any

import httpx
import jsonschema
import pytest
from fastapi.testclient import TestClient

from recsys.serving.arms import Absent, Model
from recsys.serving.assignment import Arm
from recsys.serving.ranker import Ask, Busy, Ranker
from recsys.serving.recommender import Recommendation, Recommender
from recsys.serving.service import Service
from recsys.serving.web import create_app


class Full:
    """A model without room."""

    async def rank(self, _: Ask) -> Recommendation:
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
                values += [["i1"], ["i1"] * one["maxItems"], ["i1"] * (one["maxItems"] + 1), [""], [1], [None]]
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


def test_requests_are_answered_side_by_side(service: Service, student: Ranker) -> None:
    app = create_app(service, {"student": student}, checkpoints={})

    async def ask_many() -> list[httpx.Response]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as asked:
            return await asyncio.gather(*(asked.post("/recommend", json={"history": ["i1"]}) for _ in range(20)))

    assert {said.status_code for said in asyncio.run(ask_many())} == {200}
