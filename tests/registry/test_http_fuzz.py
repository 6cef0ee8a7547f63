"""Every route under hostile requests: an answer, or one of the two shapes of error; never a fault of ours."""

import json
import shutil
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from http_server import listening
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlray.registry.client import Registry
from mlray.registry_server.app import create_app
from mlray.registry_server.config import Config
from mlray.registry_server.desk import Backend

NAMES = ["fraud", "candidate", "Production", "1", "3", "%2f", "..", "../../etc/passwd", "a\x00b", "a/b", "é", "e\u0301",
         "Fraud", "latest", "12345678901234567890", "-1", "0", "@", "#", "fraud@x", "a" * 300, "\u202efraud", " ", "%",
         "0" * 64]  # fmt: skip
VALUES = [None, True, -1, 0, 2**31, 2**63, 1e308, "", "\x00", "\ud800", [], [[]], {}, {"a": {"b": []}}, {"a": "b"},
          [{"key": "a", "value": "\x00"}], "x" * 5000, "name = 'fraud'", "models:/fraud/1"]  # fmt: skip
SENSIBLE = {
    "name": "fraud", "version": "1", "stage": "Staging", "alias": "candidate", "source": "runs:/8c1f/model",
    "role": "x", "of": "fraud/1", "new_name": "frost", "filter": "name = 'fraud'", "max_results": 10, "limit": 10,
    "why": "because", "order_by": "name", "reference": "fraud/1", "key": "team", "page_token": "", "after": 0,
    "path": "fraud/1", "if-match": '"0"', "model": "fraud", "token_sha256": "0" * 64, "digest": "0" * 64,
}  # fmt: skip
BODIES = [b"", b"{", b"\xff\xfe", b"null", b'"x"', b"[]", b"[" * 50_000, b'{"a": NaN}', b'{"a": ' + b"9" * 5000 + b"}",
          b'{"a": "\\ud800"}', b'{"name": "fraud", "name": 3}']  # fmt: skip
JSON = {"Content-Type": "application/json"}
LIMITS = Config(max_body_bytes=2_000_000, max_file_bytes=1000)


@pytest.fixture(scope="module")
def fuzzed(staffed_sqlite, tmp_path_factory) -> Iterator[tuple[httpx.Client, dict[str, Any]]]:
    """A server over a registry with one model, and what it says of itself; the caller is the admin."""
    folder = tmp_path_factory.mktemp("fuzzed")
    shutil.copy(staffed_sqlite.template, folder / "registry.db")
    token = staffed_sqlite.tokens["root"]
    root = Registry.connect(f"sqlite:///{folder}/registry.db", str(folder), embedded=True, token=token)
    root.register_source("fraud", "runs:/8c1f/model", run_id="8c1f")
    app = create_app(Backend(rules=root._rules, artifacts=root._artifacts, config=LIMITS))
    headers = {"Authorization": f"Bearer {token}"}
    with listening(app) as url, httpx.Client(base_url=url, headers=headers, timeout=60) as client:
        yield client, app.openapi()


def operations(spec: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [(method, path, told) for path, methods in spec["paths"].items() for method, told in methods.items()]


def escaped(text: str) -> str:
    """Every byte as %XX, so that nobody on the way tidies the path up."""
    return "".join(f"%{byte:02x}" for byte in text.encode("utf-8", "surrogatepass"))


def check(path: str, answer: Any) -> None:
    assert answer.status_code < 500, (path, answer.text)
    if answer.status_code >= 400:
        told = answer.json()
        shape = {"error_code", "message"} if path.startswith("/api/") else {"error", "status", "asked", "message"}
        assert shape <= told.keys(), told
        assert told["message"]


def a_value(name: str, schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Mostly what a sensible caller sends as `name`, else anything."""
    kinds = {"integer": 1, "boolean": True, "array": [], "object": {}}
    sensible = SENSIBLE.get(name, kinds.get(schema.get("type", ""), "x"))
    return st.one_of(*[st.just(sensible)] * 5, st.sampled_from(VALUES + NAMES))


def a_body(spec: dict[str, Any], schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Bodies with the fields that a route knows, some left out, sometimes one more."""
    shape = spec["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    fields = {name: a_value(name, one) for name, one in shape["properties"].items()}
    needed = {name: fields.pop(name) for name in shape.get("required", ())}
    more = st.sampled_from([{}] * 9 + [{"unknown": 1}])
    return st.tuples(st.fixed_dictionaries(needed, optional=fields), more).map(lambda two: two[0] | two[1])


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(data=st.data())
def test_no_request_makes_the_server_fail(fuzzed, data):
    client, spec = fuzzed
    method, path, told = data.draw(st.sampled_from(operations(spec)), label="operation")
    url, query, headers = path, {}, {}
    for one in told.get("parameters", []):
        sensible = str(SENSIBLE.get(one["name"], "x"))
        value = data.draw(st.one_of(*[st.just(sensible)] * 5, st.sampled_from(NAMES)), label=one["name"])
        if one["in"] == "path":
            url = url.replace("{" + one["name"] + "}", escaped(value))
        elif one["in"] == "query" and data.draw(st.booleans()):
            query[one["name"]] = value
        elif one["in"] == "header" and data.draw(st.booleans()):
            headers[one["name"]] = value.encode("utf-8").replace(b"\x00", b"").strip()
    more: dict[str, Any] = {}
    schema = told.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
    if schema is not None:
        body = data.draw(a_body(spec, schema), label="body")
        more = {"content": json.dumps(body), "headers": headers | JSON}
    check(path, client.request(method, url, params=query, **(more or {"headers": headers})))


@pytest.mark.parametrize("content", BODIES, ids=lambda body: repr(body[:20]))
def test_a_body_that_is_no_good_json_is_refused_by_every_route(fuzzed, content):
    client, spec = fuzzed
    for method, path, told in operations(spec):
        if "application/json" in told.get("requestBody", {}).get("content", {}):
            url = path.replace("{name}", "fraud").replace("{version}", "1").replace("{", "").replace("}", "")
            answer = client.request(method, url, content=content, headers=JSON)
            check(path, answer)
            assert 400 <= answer.status_code < 500, (path, answer.text)


def test_a_huge_body_is_refused_unread(fuzzed):
    client, _ = fuzzed
    large = b'{"name": "' + b"a" * 2_000_000 + b'"}'
    for content in (large, iter([large])):
        answer = client.post("/v1/models", content=content, headers=JSON)
        assert (answer.status_code, answer.json()["error"]) == (413, "RequestTooLarge")

    answer = client.put("/v1/blobs/" + "0" * 64, content=b"x" * 1001)
    assert answer.status_code == 413


def test_bytes_are_stored_under_their_own_digest_only(fuzzed):
    client, _ = fuzzed

    answer = client.put("/v1/blobs/" + "0" * 64, content=b"weights")
    assert answer.status_code == 400
    assert "the body's SHA-256 is " in answer.json()["message"]
    for digest in ("..%2f..%2fx", "A" * 64, "0" * 63):
        assert client.put(f"/v1/blobs/{digest}", content=b"weights").status_code in (404, 422)


@pytest.mark.parametrize("path", ["../evil", "/etc/passwd", "a/../../b", "a\x00b", "", "a\\b", ".", "a//b"])
def test_an_artifact_names_no_path_outside_of_itself(fuzzed, path):
    client, _ = fuzzed
    digest = client.put(
        "/v1/blobs/5feceb66ffc86f38d952786c6d696c79c2dbc239dd4e91b46729d73a27fb57e9", content=b"0"
    ).json()["sha256"]

    answer = client.post("/v1/artifacts", json={"files": [{"path": path, "size": 1, "sha256": digest}]})

    assert (answer.status_code, answer.json()["error"]) in ((422, "SchemaError"), (422, "InvalidRequest"))


@pytest.mark.parametrize(
    ("paths", "told"),
    [([f"{i}" for i in range(10_001)], "at most 10000"), (["a/" * 64 + "b"], "at most 1024 characters in 64 parts"),
     ([f"{'a/' * 60}{i}" for i in range(300)] + ["a/a"], "is no other file's folder"), (["a", "a"], "is there once")],
    ids=["many", "deep", "a folder", "twice"],
)  # fmt: skip
def test_an_artifact_of_too_many_or_too_deep_paths_is_refused(fuzzed, paths, told):
    client, _ = fuzzed
    files = [{"path": path, "size": 1, "sha256": "0" * 64} for path in paths]

    answer = client.post("/v1/artifacts", content=json.dumps({"files": files}).replace(" ", ""), headers=JSON)

    assert (answer.status_code, told in answer.json()["message"]) == (422, True), answer.text


def test_more_tags_than_a_model_is_made_with_are_refused_before_anything_waits_for_them(fuzzed):
    client, _ = fuzzed

    answer = client.post("/v1/models", json={"name": "tagged", "tags": {f"k{i}": "" for i in range(1001)}})

    assert (answer.status_code, "1001 tags are more than the 1000" in answer.json()["message"]) == (422, True)
    assert client.get("/v1/models/tagged").status_code == 404


def test_a_path_that_there_is_not_is_told_in_the_same_shape(fuzzed):
    client, _ = fuzzed

    assert client.get("/v1/nothing").json()["error"] == "UnknownName"
    assert client.get("/api/2.0/mlflow/nothing").json()["error_code"] == "ENDPOINT_NOT_FOUND"
    assert client.put("/v1/models").status_code == 405


@pytest.mark.parametrize(
    "more",
    [
        {"config": {"a": ["\ud800"]}},
        {"provenance": {"\ud800": 1}},
        {"config": {"a": "\x00"}},
        {"config": json.loads('{"a": ' * 80 + "1" + "}" * 80)},
        {"description": "\ud800"},
        {"run_id": "a\x00b"},
        {"sources": {"a": 2**63}},
        {"metrics": {"a": 10**400}},
        {"metrics": {"a": True}},
        {"metrics": {"a": "1_0"}},
    ],
    ids=lambda more: next(iter(more)),
)
def test_what_no_database_and_no_answer_can_carry_is_refused(fuzzed, more):
    client, _ = fuzzed

    body = json.dumps({"digest": "0" * 64} | more)
    answer = client.post("/v1/models/fraud/versions", content=body, headers=JSON)

    assert (answer.status_code, answer.json()["error"]) == (422, "InvalidRequest")
    assert answer.json()["wrong"][0]["where"].startswith(f"body.{next(iter(more))}")
