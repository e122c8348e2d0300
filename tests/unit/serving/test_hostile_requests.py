"""Requests made from the schema and then spoiled, and bodies that nobody means well: every answer is a documented one.

No 500, no traceback, and always JSON with one sentence where something is refused. The client raises what the
application raises, so an exception that nobody handles fails the test.
"""

import gzip
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from fastapi.testclient import TestClient

from recsys.serving.arms import Absent
from recsys.serving.events import EventLog
from recsys.serving.ranker import Ranker
from recsys.serving.recommender import Recommender
from recsys.serving.service import Service
from recsys.serving.web import create_app

TOKEN = {"Authorization": "Bearer secret"}
HOSTILE: list[Any] = [
    None, True, 0, -1, 10**9, 10**30, -1.5, 1e308, float("nan"), float("inf"), "", " ", "\0", "a\r\nb: c", "\x1b[31m",
    "\u202e", "\ufeff", "\ud800", "é" * 300, "x" * 100_000, "../../etc/passwd", "'; DROP TABLE items; --", "%s%n",
    "<script>", "i1", [], {}, [None], [[[[]]]], {"": ""}, {"__class__": {}}, ["i1"] * 1000, {"a": {"b": {"c": []}}},
]  # fmt: skip


@pytest.fixture
def api(service: Service, recommender: Recommender, tmp_path: Path) -> Iterator[TestClient]:
    log = EventLog(tmp_path / "events", flush_seconds=0.01)
    models: Any = {"teacher": Absent("gone"), "student": Ranker(recommender)}
    app = create_app(service, models, checkpoints={}, log=log, fallback="student", token="secret")
    with TestClient(app) as api:
        yield api
    log.close()


class Maker:
    """Makes values that a schema allows, and spoils them."""

    def __init__(self, schema: dict[str, Any], seed: int) -> None:
        self.schema, self.drawn = schema, random.Random(seed)

    def make(self, node: dict[str, Any]) -> Any:
        drawn = self.drawn
        if "$ref" in node:
            return self.make(self.schema["components"]["schemas"][node["$ref"].rpartition("/")[2]])
        if "anyOf" in node and "properties" not in node:
            return self.make(drawn.choice(node["anyOf"]))
        if "enum" in node:
            return drawn.choice(node["enum"])
        low, high = node.get("minimum", -3), node.get("maximum", 30)
        match node.get("type"):
            case "string":
                least, most = node.get("minLength", 0), min(node.get("maxLength", 20), 200)
                known = drawn.choice(["i1", "i2", "u3", "Drama", "Acme"])
                return (
                    known if drawn.random() < 0.7 else "".join(drawn.choices("aé\0 i1", k=drawn.randint(least, most)))
                )
            case "integer":
                return drawn.randint(low, high)
            case "number":
                return drawn.choice([low, high, drawn.uniform(low, high)])
            case "boolean":
                return drawn.random() < 0.5
            case "array":
                count = drawn.randint(node.get("minItems", 0), min(node.get("maxItems", 4), 4))
                return [self.make(node["items"]) for _ in range(count)]
            case "object" if "properties" in node:
                form = drawn.choice(node.get("anyOf", [{}])).get("required", ())
                wanted = {*node.get("required", ()), *form, *(n for n in node["properties"] if drawn.random() < 0.3)}
                return {name: self.make(node["properties"][name]) for name in sorted(wanted)}
            case "object":
                names = node.get("propertyNames", {"type": "string"})
                return {self.make(names): self.make(node["additionalProperties"]) for _ in range(drawn.randint(0, 2))}
        return None

    def spoil(self, value: Any) -> Any:
        """The value with something else in one place of it."""
        drawn = self.drawn
        if isinstance(value, dict) and value and drawn.random() < 0.8:
            name = drawn.choice(list(value))
            return {**value, name: self.spoil(value[name])}
        if isinstance(value, list) and value and drawn.random() < 0.5:
            place = drawn.randrange(len(value))
            return [*value[:place], self.spoil(value[place]), *value[place + 1 :]]
        if isinstance(value, dict) and drawn.random() < 0.3:
            return {**value, drawn.choice(["", "arm ", "x" * 300, "\ud800", "self"]): 1}
        return drawn.choice(HOSTILE)


def check(answer: Any, operation: dict[str, Any], what: Any) -> None:
    said = str(what)[:300]
    assert str(answer.status_code) in operation["responses"], (answer.status_code, said, answer.text[:300])
    assert "Traceback" not in answer.text and "recsys/" not in answer.text, said
    if answer.status_code >= 400:
        detail = answer.json()["detail"]
        assert isinstance(detail, str) and 0 < len(detail) < 1000 and "\n" not in detail, (said, detail)


def operations(api: TestClient) -> list[tuple[str, str, dict[str, Any]]]:
    schema = api.get("/openapi.json").json()
    return [(path, method, said) for path, methods in schema["paths"].items() for method, said in methods.items()]


def test_bodies_made_from_the_schema_and_spoiled_get_documented_answers(api: TestClient) -> None:
    schema = api.get("/openapi.json").json()
    seen: dict[str, set[int]] = {}
    for path, method, operation in operations(api):
        if "requestBody" not in operation:
            continue
        maker = Maker(schema, seed=7)
        form = operation["requestBody"]["content"]["application/json"]["schema"]
        for number in range(250):
            body = maker.make(form)
            for _ in range(number % 3):
                body = maker.spoil(body)
            headers = {"content-type": "application/json", **(TOKEN if number % 7 else {})}
            answer = api.request(method, path, content=json.dumps(body), headers=headers)
            check(answer, operation, (path, body))
            seen.setdefault(path, set()).add(answer.status_code)
    assert {200, 422} <= seen["/recommend"] & seen["/recommend/batch"] and 503 in seen["/recommend"]
    assert seen["/feedback"] == {202, 422} and seen["/experiment"] == {200, 401, 422}


def test_paths_headers_and_queries_get_documented_answers(api: TestClient) -> None:
    drawn = random.Random(7)
    for path, method, operation in operations(api):
        for _ in range(40):
            strange = [str(drawn.choice(HOSTILE)).encode(errors="replace")[:2000] for _ in range(3)]
            address = re.sub(r"{.*}", quote(strange[0], safe=""), path)
            value = bytes(byte for byte in strange[1][:500] if byte not in b"\r\n\0")
            headers = [(b"X-Request-ID", value), (b"Authorization", b"Bearer " + value)]
            if drawn.random() < 0.2:
                headers.append((b"X-Session-Id", b"\xff"))
            answer = api.request(method, address, params={"k": strange[2].decode()}, headers=headers)
            if answer.status_code == 400:  # what is said of headers holds for every path
                assert answer.json()["detail"] == "the header x-session-id is not UTF-8 text"
            else:
                check(answer, operation, (address, strange))


def hostile_bodies() -> Iterator[tuple[str, bytes, dict[str, str]]]:
    plain = b'{"history": ["i1"], "user_id": "u1"}'
    yield "nothing", b"", {}
    for name, content in {
        "malformed": b'{"history": ["i1"',
        "text": b"history=i1",
        "nul": b"\0" * 100,
        "not utf-8": b'{"history": ["\xff\xfe"]}',
        "utf-16": plain.decode().encode("utf-16"),
        "a mark before": b"\xef\xbb\xbf" + plain,
        "two values": plain + plain,
        "nested": b"[" * 200_000,
        "nested objects": b'{"a":' * 100_000,
        "a long number": b'{"history": ["i1"], "k": ' + b"9" * 10_000 + b"}",
        "a number of many digits": b'{"history": ["i1"], "diversity": 0.' + b"1" * 10_000 + b"}",
        "NaN": b'{"history": ["i1"], "diversity": NaN, "shadow": NaN}',
        "infinity": b'{"history": ["i1"], "k": Infinity, "split": {"student": Infinity}}',
        "k=0": b'{"history": ["i1"], "k": 0}',
        "k=10^9": b'{"history": ["i1"], "k": 1000000000}',
        "control characters": json.dumps({"history": ["\0\x01\x1f\x7f\u2028"], "user_id": "\r\n"}).encode(),
        "half a character": b'{"history": ["\\ud800"], "salt": "\\udfff", "user_id": "\\udc00"}',
        "the same key twice": b'{"history": ["i1"], "history": 1}',
        "10^5 items": json.dumps({"history": ["i1"] * 100_000}).encode(),
        "10^5 of one thing": json.dumps({"history": ["i1"], "where": {"genres": ["x"] * 100_000}}).encode(),
        "10^4 attributes": json.dumps({"history": ["i1"], "at_most": {f"a{n}": 1 for n in range(10_000)}}).encode(),
        "10^4 fields": json.dumps({f"a{n}": 1 for n in range(10_000)}).encode(),
        "10^4 requests": json.dumps({"requests": [{"history": ["i1"]}] * 10_000}).encode(),
        "10 MB": b'{"history": ["' + b"x" * 10_000_000 + b'"]}',
    }.items():
        yield name, content, {}
    yield "another type", plain, {"content-type": "text/plain"}
    yield "a form", b"history=i1&k=1", {"content-type": "application/x-www-form-urlencoded"}
    yield "parts", b"--x\r\n\r\n--x--", {"content-type": "multipart/form-data; boundary=x"}
    yield "compressed", gzip.compress(plain), {"content-encoding": "gzip"}
    yield "a type that is none", plain, {"content-type": "\x7f;;=,"}


@pytest.mark.parametrize(("content", "headers"), [pytest.param(c, h, id=name) for name, c, h in hostile_bodies()])
def test_bodies_that_mean_no_good_get_documented_answers(
    api: TestClient, content: bytes, headers: dict[str, str]
) -> None:
    for path, method, operation in operations(api):
        if "requestBody" in operation:
            given = {"content-type": "application/json", **TOKEN, **headers}
            answer = api.request(method, path, content=content, headers=given)
            check(answer, operation, content)
            assert answer.status_code < 500
