"""Records and files of odd shapes are refused when they come, so that no answer, card or audit breaks on them later."""

import base64
import hashlib
import json
import shutil
from pathlib import Path

import httpx
import pytest
from http_server import record

from mlray.errors import MlrayError, SchemaError
from mlray.registry.gates import Gate
from mlray.registry.identity import Call
from mlray.registry.model_version import record_of
from mlray.registry.plain import MAX_BYTES, read_json, unfit
from mlray.registry_server.alone import embedded
from mlray.registry_server.config import Config

FRAUD = "/v1/models/fraud"
HALF = "\ud800"


@pytest.fixture
def urls(request, tmp_path):
    """SQLite only: what is refused here reaches no database."""
    shutil.copy(request.getfixturevalue("staffed_sqlite").template, tmp_path / "registry.db")
    return f"sqlite:///{tmp_path}/registry.db", str(tmp_path / "artifacts")


def test_json_is_fit_up_to_a_depth_and_without_halves_of_pairs():
    deep = json.loads("[" * 64 + "]" * 64)

    assert [unfit(value) for value in ({"a": [1, 2.5, None, "é"]}, float("nan"), deep[0])] == [None] * 3
    assert unfit([deep]) == "it is nested deeper than 64"
    for text in (HALF, "\x00"):
        for value in (text, [{"a": text}], {text: 1}):
            assert unfit(value) == "a text in it holds a NUL or half of a surrogate pair"


@pytest.mark.parametrize(
    "fields",
    [{"metrics": {"auc": 10**400}}, {"sources": {"departures": "4"}}, {"sources": {"departures": True}},
     {"features": (1,)}, {"label": 5}, {"config": {"a": HALF}}, {"config": ["a"]},
     {"provenance": {"a": json.loads("[" * 99 + "]" * 99)}}],
)  # fmt: skip
def test_a_run_of_odd_shape_is_refused_and_leaves_the_listing_and_the_audit_whole(http, team, fields):
    team.version()

    with pytest.raises((MlrayError, TypeError, ValueError)):
        team.ana.register("fraud", team.make_run(b"2", **fields))
    [listed] = http.ana.ask("GET", "/v1/versions")["versions"]
    assert listed["reference"] == "fraud/1"
    assert team.ana.check_audit() is None


@pytest.mark.parametrize("text", ['{"a": "\\ud800"}', '{"a": ' + "[" * 400 + "]" * 400 + "}", "[" * 200_000, "[]"])
@pytest.mark.parametrize("file", ["signature.json", "gates.json"])
def test_a_file_that_no_answer_can_carry_is_refused_at_registration(http, team, file, text):
    run = team.make_run(b"1")
    Path(run.checkpoint, file).write_text(text)

    problem = http.ana.ask("POST", f"{FRAUD}/versions", 422, json=record(run, http.ana.upload(run.checkpoint)))

    assert (problem["error"], file in problem["message"]) == ("SchemaError", True)
    assert http.ana.ask("GET", "/v1/versions")["versions"] == []


def test_a_file_too_large_to_read_whole_is_not_read(team, tmp_path):
    (tmp_path / "large").mkdir()
    (tmp_path / "large" / "gates.json").write_bytes(b" " * (MAX_BYTES + 1))
    artifacts = team.ana._artifacts
    manifest = artifacts.manifest(artifacts.upload(tmp_path / "large"))

    with pytest.raises(SchemaError, match=rf"has {MAX_BYTES + 1} bytes; what is read of it has at most"):
        read_json(artifacts, manifest, "gates.json")


@pytest.mark.parametrize("evidence", ['{"gates": []}', '{"gates": {"evaluation": {"details": 1}}}', "[1]"])
@pytest.mark.parametrize("provenance", [{}, {"dirty": "maybe"}, {"training_set": "x"}])
def test_a_card_of_what_no_run_writes_is_an_error_of_the_record_and_not_of_the_server(
    http, team, evidence, provenance
):
    run = team.make_run(b"1", provenance=provenance)
    Path(run.checkpoint, "evidence.json").write_text(evidence)
    team.ana.register("fraud", run)

    assert http.ana.ask("GET", f"{FRAUD}/versions/1/card", 422)["error"] == "SchemaError"
    assert http.ana.send("GET", f"{FRAUD}/versions/1/lineage").status_code == (422 if "dirty" in provenance else 200)


def test_a_number_in_a_gate_that_no_float_can_be_is_refused(team):
    run = team.make_run(b"1", gates={"evaluation": Gate(passed=True, value=10**400)})

    with pytest.raises(SchemaError, match=r"gates.json of artifact .* is not what a run writes"):
        team.ana.register("fraud", run)


def test_a_version_with_bytes_here_names_no_other_place_for_them(team):
    run = team.make_run(b"1")
    whole = record_of(run, digest=team.ana._artifacts.upload(run.checkpoint), signature={})
    call = Call(request="elsewhere", token=team.ana._token)

    with pytest.raises(SchemaError, match="a version with a digest has its bytes here, no source"):
        team.ana._rules.register(
            "fraud", type(whole)(**vars(whole) | {"source": "s3://elsewhere/model"}), alias=None, call=call
        )


@pytest.mark.parametrize("last", [[HALF, 1], ["\x00", 1], ["fraud", 2**70]])
def test_a_page_token_made_by_hand_is_refused(http, team, last):
    for weights in (b"1", b"2"):
        team.version(weights)
    token = http.ana.ask("GET", "/v1/versions", params={"limit": 1})["next_page_token"]
    mark, _ = json.loads(base64.urlsafe_b64decode(token))
    forged = base64.urlsafe_b64encode(json.dumps([mark, last]).encode()).decode()

    problem = http.ana.ask("GET", "/v1/versions", 422, params={"limit": 1, "page_token": forged})

    assert problem["error"] == "InvalidQuery"


def test_nobody_probes_for_tags_and_aliases_without_a_token(http, team):
    team.version()
    mlflow = "/api/2.0/mlflow/registered-models"

    for path, key in ((f"{mlflow}/delete-tag", "key"), (f"{mlflow}/alias", "alias")):
        answer = http.nobody.send("DELETE", path, json={"name": "fraud", key: "none"})
        assert (answer.status_code, answer.json()["error_code"]) == (401, "UNAUTHENTICATED")


def test_the_first_user_is_added_without_a_token_and_that_call_can_be_repeated(http_server, plain_sqlite, tmp_path):
    shutil.copy(plain_sqlite, tmp_path / "plain.db")
    app, url = http_server
    app.state.backend = embedded(f"sqlite:///{tmp_path}/plain.db", str(tmp_path / "artifacts"), Config())
    body = {"name": "root", "token_sha256": hashlib.sha256(b"secret").hexdigest()}

    made = [httpx.post(f"{url}/v1/users", json=body, headers={"Idempotency-Key": "first"}) for _ in range(2)]

    assert [one.status_code for one in made] == [201, 201]
