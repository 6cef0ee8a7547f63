"""The registry's REST API over real HTTP: all that Python's client can do, under the same rules."""

import hashlib
import json
import pickle
from pathlib import Path

import httpx
import pytest
from http_server import LIMITS, record

from mlray.registry.gates import Gate
from mlray.registry.identity import new_token
from mlray.registry_server.alone import embedded

PASSED = {"evaluation": Gate(passed=True, value=0.755, threshold=0.7)}
FRAUD = "/v1/models/fraud"
SENT = {"/v1/models/other/copies": {"of": "fraud@none"}, f"{FRAUD}/versions": {"digest": "0" * 64}}
"""Bodies for which the server would look something up."""


@pytest.fixture
def registered(http, team):
    """Registers a run over HTTP by ana; the version."""

    def register(weights=b"1", gates=PASSED, **more):
        run = team.make_run(weights, gates=gates)
        return http.ana.ask("POST", f"{FRAUD}/versions", json=record(run, http.ana.upload(run.checkpoint), **more))

    return register


def approve(http, version, stage="Production"):
    for caller, role in ((http.ben, "ml_engineer"), (http.cleo, "risk_officer")):
        caller.ask("POST", f"{FRAUD}/versions/{version}/approvals", json={"stage": stage, "role": role})


def test_a_version_goes_from_bytes_to_production_and_back_over_http_alone(http, registered, team, tmp_path):
    for version in (1, 2):
        made = registered(b"weights %d" % version, alias="candidate", tags={"team": "payments"})
        assert (made["reference"], made["stage"], made["author"]) == (f"fraud/{version}", "None", "ana")
        approve(http, version)
        promoted = http.ana.ask("POST", f"{FRAUD}/versions/{version}/promote", 200, json={"stage": "Production"})
        assert promoted["stage"] == "Production"
    assert team.stages() == ["Archived", "Production"]

    asked = {"why": "latency", "version": 2}
    http.ben.ask("POST", f"{FRAUD}/rollback", 409, json=asked, headers={"If-Match": '"0"'})
    back = http.ben.ask("POST", f"{FRAUD}/rollback", 200, json=asked, headers={"If-Match": '"1"'})

    assert (back["reference"], back["stage"]) == ("fraud/1", "Production")
    assert http.ana.send("GET", f"{FRAUD}/versions/1/files/model.safetensors").content == b"weights 1"
    assert (team.ana.download("fraud/1", tmp_path / "copy") / "model.safetensors").read_bytes() == b"weights 1"
    assert http.ana.ask("GET", "/v1/audit/check") == {"whole": True, "broken": None}


def test_what_is_registered_over_http_is_what_python_registers(registered, team):
    registered(b"1")
    team.ana.register("other", team.make_run(b"1", gates=PASSED))

    one, two = team.ana.get("fraud/1"), team.ana.get("other/1")

    own = {"name", "created_at", "updated_at"}
    assert {k: v for k, v in vars(one).items() if k not in own} == {k: v for k, v in vars(two).items() if k not in own}
    assert one.signature == {"inputs": {"count_1h": "int64"}, "label": "is_late"}


def test_a_refused_promotion_says_as_data_what_is_missing(http, registered):
    registered(b"1", gates=None)
    http.cleo.ask("POST", f"{FRAUD}/versions/1/approvals", json={"stage": "Production", "role": "risk_officer"})

    problem = http.ana.ask("POST", f"{FRAUD}/versions/1/promote", 403, json={"stage": "Production"})

    assert problem["error"] == "NotApproved"
    assert problem["asked"] == "POST /v1/models/fraud/versions/1/promote"
    gates = ["data_validation", "evaluation", "bias", "model_card"]
    assert problem["missing"] == {"roles": ["ml_engineer"], "gates": gates}
    assert "fraud/1 may not enter Production, it lacks an approval as ml_engineer; gate" in problem["message"]


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/v1/models"), ("GET", f"{FRAUD}/versions/1"), ("GET", "/v1/audit"), ("GET", "/v1/users"),
     ("GET", f"{FRAUD}/versions/1/files/model.safetensors"), ("POST", f"{FRAUD}/rollback"),
     ("PUT", "/v1/blobs/" + "0" * 64), ("POST", "/v1/models/other/copies"), ("POST", f"{FRAUD}/versions")],
)  # fmt: skip
def test_without_a_good_token_nothing_is_read_or_changed(http, team, method, path):
    team.version()

    for headers in ({}, {"Authorization": "Bearer mlray_wrong"}, {"Authorization": "Basic YW5hOng="}):
        body = {"json": SENT.get(path, {})} if method == "POST" else {}
        answer = http.nobody.send(method, path, headers=headers, **body)
        assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
        assert answer.json()["error"] == "Unauthenticated"
        assert "Authorization: Bearer TOKEN" in answer.json()["message"]


def test_a_promotion_of_a_version_that_has_moved_since_is_refused(http, registered):
    registered(b"1")
    seen = http.ana.send("GET", f"{FRAUD}/versions/1").headers["ETag"]
    http.ana.ask("POST", f"{FRAUD}/versions/1/promote", 200, json={"stage": "Staging"}, headers={"If-Match": seen})

    body = {"stage": "Archived"}
    late = http.ben.ask("POST", f"{FRAUD}/versions/1/promote", 409, json=body, headers={"If-Match": seen})

    assert late["error"] == "Conflict"
    assert "fraud/1 has changed since you looked: it is in Staging now (row version 1, yours is 0)" in late["message"]
    http.ana.ask("POST", f"{FRAUD}/versions/1/promote", 400, json=body, headers={"If-Match": "soon"})


def test_the_same_key_registers_once_and_another_artifact_under_it_is_a_conflict(http, team):
    key = {"Idempotency-Key": "run-1"}
    bodies = [record(team.make_run(w), http.ana.upload(team.make_run(w).checkpoint)) for w in (b"1", b"2")]

    first, again = (http.ana.ask("POST", f"{FRAUD}/versions", json=bodies[0], headers=key) for _ in range(2))
    other = http.ana.ask("POST", f"{FRAUD}/versions", 409, json=bodies[1], headers=key)

    assert first == again
    assert "the idempotency key 'run-1' stands for version 1 with digest" in other["message"]
    assert len(team.stages()) == 1


def test_the_same_key_makes_one_version_of_a_source_or_copy_and_of_another_it_is_a_conflict(http, registered):
    registered(b"1")
    registered(b"2")
    key = {"Idempotency-Key": "k"}
    for path, field, one, other in (
        ("/v1/models/far/sources", "source", "runs:/a/m", "runs:/b/m"),
        ("/v1/models/other/copies", "of", "fraud/1", "fraud/2"),
    ):
        made = [http.ana.ask("POST", path, json={field: one}, headers=key)["version"] for _ in range(2)]
        told = http.ana.ask("POST", path, 409, json={field: other}, headers=key)
        assert (made, told["error"]) == ([1, 1], "Conflict")
        assert "the idempotency key 'k' stands for version 1 with" in told["message"]


def test_a_key_stands_for_one_content_so_that_no_change_is_taken_for_another(http, registered, team):
    registered(b"1")
    registered(b"2")
    key = {"Idempotency-Key": "k"}

    for version in (1, 2, 2):
        http.ana.ask("POST", f"{FRAUD}/versions/{version}/promote", 200, json={"stage": "Staging"}, headers=key)

    assert team.stages() == ["Staging", "Staging"]
    assert [row["action"] for row in team.ana.audit("fraud")].count("promote") == 2


def test_models_are_made_found_changed_and_deleted(http):
    body = {"name": "fraud", "description": "cards", "tags": {"team": "payments"}}
    made = http.ana.send("POST", "/v1/models", json=body)
    assert (made.status_code, made.headers["Location"], made.json()["last_version"]) == (201, FRAUD, 0)
    assert http.ana.ask("POST", "/v1/models", 409, json=body)["error"] == "AlreadyExists"

    http.ana.ask("PUT", f"{FRAUD}/tags/a%20key/with%2Fslash", json={"value": "x"})
    http.ana.ask("DELETE", f"{FRAUD}/tags/team")
    http.ana.ask("PATCH", FRAUD, json={"description": "all cards"})
    http.ana.ask("PATCH", FRAUD, 422, json={"description": "all cards", "name": "cards"})
    changed = http.ana.ask("PATCH", FRAUD, json={"name": "cards"})
    assert (changed["name"], changed["description"]) == ("cards", "all cards")
    assert changed["tags"] == {"a key/with/slash": "x"}

    assert http.ana.ask("GET", FRAUD, 404)["message"].endswith("it is called 'cards' now")
    http.ana.ask("DELETE", "/v1/models/cards")
    assert http.ana.ask("GET", "/v1/models")["models"] == []


def test_searches_come_a_page_at_a_time(http, registered):
    for number in range(5):
        registered(b"%d" % number, tags={"parity": "odd" if number % 2 else "even"})
    asked = {"filter": "tags.parity = 'even' AND name LIKE 'fr%'", "order_by": "version DESC", "limit": 2}

    first = http.ana.ask("GET", "/v1/versions", params=asked)
    second = http.ana.ask("GET", "/v1/versions", params={**asked, "page_token": first["next_page_token"]})

    assert [one["version"] for page in (first, second) for one in page["versions"]] == [5, 3, 1]
    assert second["next_page_token"] is None
    wrong = http.ana.ask("GET", "/v1/versions", 422, params={"filter": "name == 'x'"})
    assert wrong["message"] == "the filter, at character 7: a text in quotes, or a number is due, not '='"


def test_aliases_move_and_the_protected_one_needs_production(http, registered):
    registered(b"1")
    http.ana.ask("PUT", f"{FRAUD}/aliases/candidate", json={"version": 1})
    assert http.ana.ask("GET", f"{FRAUD}/aliases/candidate")["version"] == 1
    assert http.ana.ask("GET", "/v1/resolve", params={"reference": "fraud@candidate"})["aliases"] == ["candidate"]

    refused = http.ana.ask("PUT", f"{FRAUD}/aliases/champion", 403, json={"version": 1})

    assert refused["missing"]["roles"] == ["ml_engineer", "risk_officer"]
    http.ana.ask("DELETE", f"{FRAUD}/aliases/candidate")
    assert http.ana.ask("GET", f"{FRAUD}/aliases/candidate", 404)["error"] == "UnknownName"


def test_versions_are_copied_described_tagged_and_deleted_and_take_no_approval_along(http, registered):
    registered(b"1", tags={"team": "payments"})
    approve(http, 1)
    copy = http.eve.send("POST", "/v1/models/other/copies", json={"of": "fraud/1"})
    assert (copy.status_code, copy.headers["Location"]) == (201, "/v1/models/other/versions/1")
    assert (copy.json()["tags"], copy.json()["author"]) == ({"team": "payments"}, "eve")

    refused = http.eve.ask("POST", "/v1/models/other/versions/1/promote", 403, json={"stage": "Production"})
    assert refused["missing"]["roles"] == ["ml_engineer", "risk_officer"]
    described = http.eve.ask("PATCH", "/v1/models/other/versions/1", json={"description": "a try"})
    assert described["description"] == "a try"
    http.eve.ask("DELETE", "/v1/models/other/versions/1/tags/team")
    assert http.eve.ask("GET", "/v1/models/other/versions/1")["tags"] == {}
    http.eve.ask("DELETE", "/v1/models/other/versions/1")
    http.eve.ask("GET", "/v1/models/other/versions/1", 404)


def test_a_version_of_bytes_elsewhere_stays_in_none(http):
    made = http.ana.ask("POST", f"{FRAUD}/sources", json={"source": "runs:/8c1f/model", "run_id": "8c1f"})
    assert (made["digest"], made["source"], made["stage"]) == ("", "runs:/8c1f/model", "None")

    refused = http.ana.ask("POST", f"{FRAUD}/versions/1/promote", 403, json={"stage": "Staging"})

    assert "nobody has verified its bytes" in refused["message"]
    assert "fetch it from there" in http.ana.ask("GET", f"{FRAUD}/versions/1/files", 404)["message"]


def test_approvals_are_listed_and_taken_back(http, registered):
    registered(b"1")
    approve(http, 1)

    left = http.cleo.ask("DELETE", f"{FRAUD}/versions/1/approvals/Production", 200, params={"why": "a new report"})

    assert [(a["who"], a["void"]) for a in left["approvals"]] == [("ben", None), ("cleo", "it was taken back")]
    assert http.ana.ask("GET", f"{FRAUD}/versions/1/approvals") == left
    rows = http.ana.ask("GET", "/v1/audit")["rows"]
    assert (rows[-1]["why"], rows[-1]["who"], rows[-1]["action"]) == ("a new report", "cleo", "revoke_approval")
    assert http.ana.ask("GET", "/v1/audit", params={"after": rows[-3]["sequence"], "limit": 1})["rows"] == rows[-2:-1]
    assert http.ana.ask("GET", "/v1/audit", params={"model": "fraud"})["rows"] == rows[-4:]


def test_people_come_and_go_and_the_server_never_sees_a_new_token(http):
    token, other = new_token(), new_token()
    digest = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in (("token", token), ("other", other))}
    http.root.ask("POST", "/v1/users", json={"name": "fay", "roles": ["operator"], "token_sha256": digest["token"]})
    fay = {"Authorization": f"Bearer {token}"}
    assert http.nobody.ask("GET", "/v1/me", headers=fay) == {"name": "fay", "roles": ["operator"]}

    http.root.ask("PUT", "/v1/users/fay/roles/ml_engineer")
    http.root.ask("DELETE", "/v1/users/fay/roles/operator", 200)
    http.nobody.ask("PUT", "/v1/users/fay/token", json={"token_sha256": digest["other"]}, headers=fay)
    http.nobody.ask("GET", "/v1/me", 401, headers=fay)
    people = http.root.ask("DELETE", "/v1/users/fay", 200)["users"]

    assert {"name": "fay", "roles": ["ml_engineer"], "disabled": True} in people
    http.ana.ask("POST", "/v1/users", 403, json={"name": "eva", "token_sha256": "0" * 64})


def test_a_repeated_first_user_is_answered_without_a_token_and_hears_of_nobody_else(http, http_server, tmp_path):
    app, _ = http_server
    app.state.backend = embedded(f"sqlite:///{tmp_path}/new.db", str(tmp_path), LIMITS)
    body = {"name": "root", "token_sha256": hashlib.sha256(b"mine").hexdigest()}
    key, mine = {"Idempotency-Key": "first"}, {"Authorization": "Bearer mine"}
    first = http.nobody.ask("POST", "/v1/users", json=body, headers=key)
    http.nobody.ask("POST", "/v1/users", json={"name": "ana", "token_sha256": "0" * 64}, headers=mine)

    again = http.nobody.ask("POST", "/v1/users", json=body, headers=key)

    assert first == again == {"users": [{"name": "root", "roles": ["admin"], "disabled": False}]}
    http.nobody.ask("POST", "/v1/users", 401, json=body | {"name": "eve"}, headers=key)
    other = {"token_sha256": hashlib.sha256(b"other").hexdigest()}
    http.nobody.ask("PUT", "/v1/users/root/token", json=other, headers=mine)
    http.nobody.ask("GET", "/v1/me", 401, headers=mine)


def test_a_policy_is_read_and_put_in_force_by_an_admin(http):
    now = http.ana.ask("GET", "/v1/policy")
    changed = now["policy"] | {"protected_aliases": ["champion", "live"]}
    http.ana.ask("PUT", "/v1/policy", 403, json={"policy": changed})

    put = http.root.ask("PUT", "/v1/policy", json={"policy": changed, "why": "two doors"})

    assert (put["policy"], put["revision"] == now["revision"]) == (changed, False)
    wrong = http.root.ask("PUT", "/v1/policy", 422, json={"policy": {"stagez": {}}})
    assert "there is no setting 'stagez'" in wrong["message"]


def test_the_lineage_reaches_down_to_the_tables(http, registered):
    registered(b"1")

    assert http.ana.ask("GET", f"{FRAUD}/versions/1/lineage")["lineage"]["data"]["tables"] == {
        "departures": "Delta version 4"
    }


def test_the_card_is_a_text_or_a_page(http, registered):
    registered(b"1")

    text = http.ana.send("GET", f"{FRAUD}/versions/1/card")
    page = http.ana.send("GET", f"{FRAUD}/versions/1/card", params={"form": "html"})

    assert (text.text[0], text.headers["content-type"]) == ("#", "text/markdown; charset=utf-8")
    assert ("fraud/1" in page.text, page.headers["content-type"]) == (True, "text/html; charset=utf-8")


def test_a_pickle_is_refused_unless_it_is_allowed_and_then_stays_behind(http, team):
    run = team.make_run(b"1", gates=None)
    (Path(run.checkpoint) / "model.pkl").write_bytes(pickle.dumps([1]))
    body = record(run, http.ana.upload(run.checkpoint))

    assert http.ana.ask("POST", f"{FRAUD}/versions", 422, json=body)["error"] == "PickleRefused"
    http.ana.ask("POST", f"{FRAUD}/versions", json=body | {"allow_pickle": True})
    http.ana.ask("POST", f"{FRAUD}/versions/1/promote", 200, json={"stage": "Staging"})
    http.ana.ask("POST", f"{FRAUD}/versions/1/promote", 403, json={"stage": "Canary"})


def test_what_nobody_names_is_swept_away_by_an_admin(http, team):
    http.ana.upload(team.make_run(b"orphan").checkpoint)
    http.ana.ask("POST", "/v1/sweeps", 403, json={"grace_seconds": 0})

    swept = http.root.ask("POST", "/v1/sweeps", 200, json={"grace_seconds": 0})

    assert (swept["artifacts"], swept["blobs"]) == (1, 2)


def test_metrics_that_are_no_numbers_go_in_and_come_out_as_texts(registered):
    made = registered(b"1", metrics={"nan": "NaN", "inf": "Infinity", "low": "-Infinity", "auc": 0.1})

    assert made["metrics"] == {"nan": "NaN", "inf": "Infinity", "low": "-Infinity", "auc": 0.1}


def test_the_description_of_the_api_names_every_answer_and_error(http):
    spec = httpx.get(f"{http.url}/openapi.json").json()

    for path, methods in spec["paths"].items():
        for method, operation in methods.items():
            answers = operation["responses"]
            where = f"{method} {path}"
            assert "HTTPValidationError" not in json.dumps(answers), where
            good = next(code for code in answers if code.startswith("2"))
            assert good == "204" or answers[good]["content"], where
            if not path.endswith("healthz"):
                assert {"500", "503"} <= answers.keys(), where
            if not path.endswith("z"):
                assert answers.keys() & {"422", "4XX"}, where
    assert spec["components"]["securitySchemes"]["HTTPBearer"]["scheme"] == "bearer"
