"""What a bad request is told: a status, what was wrong, what to do; and nothing is logged."""

import socket
from typing import Any

import httpx
import pytest
from shop import Connect, row

from mlray.serving.answer import Problem

PATH = "/v1/models/fraud/predict"

FIELDS = [
    (row(amuont=1.0), "row 0: there is no field 'amuont'; known are", "did you mean 'amount'?"),
    ({k: v for k, v in row().items() if k != "channel"}, "field 'channel' is missing", "send null"),
    ({k: v for k, v in row().items() if k != "user_id"}, "field 'user_id' is missing", "send null"),
    (row(amount="12.5"), "field 'amount' is '12.5', but a number is due", "without quotes"),
    (row(amount=True), "field 'amount' is true, but a number is due", ""),
    (row(items=True), "field 'items' is true, but an integer is due", ""),
    (row(items=1.5), "field 'items' is 1.5, but an integer is due", ""),
    (row(items=2**63), "field 'items' is 9223372036854775808, but an integer is due", "64 bits"),
    (row(channel=7), "field 'channel' is 7, but text is due", "in quotes"),
    (row(gift=1), "field 'gift' is 1, but true or false is due", ""),
    (row(gift="false"), "but true or false is due", "without quotes"),
    (row(joined="2025-01-10T12:00:00"), "field 'joined' is '2025-01-10T12:00:00'", "no time zone"),
    (row(born="10.1.2000"), "field 'born' is '10.1.2000', but a date", "'2026-01-31'"),
    (row(user_id="seven"), "field 'user_id' is 'seven', but an integer is due", "without quotes"),
    (row(user_id=[1]), "field 'user_id' is [1], but an integer is due", ""),
    (7, "row 0 is 7; it must be an object", ""),
]


@pytest.mark.parametrize(("bad", "wrong", "remedy"), FIELDS)
def test_a_field_that_does_not_fit_is_named_with_its_row(connect: Connect, bad: Any, wrong: str, remedy: str) -> None:
    response = connect().post(PATH, json={"rows": [bad]})
    problem = Problem.model_validate_json(response.text)
    assert response.status_code == 422
    assert wrong in problem.message
    assert remedy in problem.message


def test_the_row_that_does_not_fit_is_counted_from_0(connect: Connect) -> None:
    response = connect().post(PATH, json={"rows": [row(), row(), row(items="2")]})
    assert "row 2: field 'items' is '2'" in response.json()["message"]


BODIES = [
    (b'{"rows": [', "the body is not JSON"),
    (b"", "the body is not JSON"),
    (b"\xff\xfe\xfd", "the body is not JSON"),
    (b"[" * 100_000, "the body is not JSON"),
    (b"7", "the body is 7, not an object"),
    (b'{"rows": [{"amount": NaN}]}', "NaN is not JSON; send null"),
    (b'{"row": {"amount": 1, "amount": 2}}', "'amount' stands twice"),
    (b'{"amount": 1}', "no 'amount'; known are at, features, row, rows; a single row goes under 'row'"),
    (b'{"row": {}, "feature": true}', "did you mean 'features'?"),
    (b'{"at": null}', "give either 'row' or 'rows', not neither"),
    (b'{"row": {}, "rows": []}', "not both"),
    (b'{"rows": []}', "a list of at least one object"),
    (b'{"rows": {"amount": 1}}', "a list of at least one object"),
    (b'{"row": {}, "features": "yes"}', "features='yes'; it must be true or false"),
]


@pytest.mark.parametrize(("body", "wrong"), BODIES)
def test_a_body_of_another_shape_is_told_the_right_one(connect: Connect, body: bytes, wrong: str) -> None:
    response = connect().post(PATH, content=body)
    assert (response.status_code, response.json()["error"]) == (400, "InvalidRequest")
    assert wrong in response.json()["message"]


def test_numbers_and_texts_that_no_column_can_hold_are_refused(connect: Connect) -> None:
    good = connect().build_request("POST", PATH, json={"row": row()}).content
    for old, new, due in ((b"12.5", b"1e999", "a number"), (b'"web"', b'"\\ud800"', "text")):
        response = connect().post(PATH, content=good.replace(old, new))
        assert (response.status_code, f"{due} is due" in response.json()["message"]) == (422, True)


INSTANTS = [
    ("2026-01-10T12:00:00", "at='2026-01-10T12:00:00' has no time zone; write 'Z'"),
    ("2026-01-10", "has no time zone"),
    ("noon", "at='noon' is no time"),
    (1768046400, "at=1768046400 is no time; write '2026-01-31T12:00:00Z'"),
    ("2026-01-10T12:00:00.1234567Z", "finer than a microsecond"),
    (["2026-01-10T12:00:00Z"] * 2, "at has 2 instants for 1 rows; give one, or one per row"),
    (["2026-01-10T12:00:00"], "at[0]='2026-01-10T12:00:00' has no time zone"),
    ([None], "at[0]=null is no time"),
    ("2025-12-31T23:00:00Z", "answers exactly only from 2026-01-08T12:00:00"),
]


@pytest.mark.parametrize(("at", "wrong"), INSTANTS)
def test_an_instant_that_cannot_be_answered_is_told_why(connect: Connect, at: Any, wrong: str) -> None:
    response = connect().post(PATH, json={"row": row(), "at": at})
    assert (response.status_code, response.json()["error"]) == (422, "TimeError")
    assert wrong in response.json()["message"]


def test_an_instant_is_refused_where_the_configuration_does_not_allow_it(connect: Connect) -> None:
    client = connect(allow_at=False)
    response = client.post(PATH, json={"row": row(), "at": "2026-01-10T12:00:00Z"})
    assert response.status_code == 422
    assert "allow_at = true" in response.json()["message"]
    assert client.post(PATH, json={"row": row(), "at": None}).status_code == 200


def test_an_unknown_model_or_path_is_not_found(connect: Connect) -> None:
    response = connect().post("/v1/models/fruad/predict", json={"row": row()})
    assert response.status_code == 404
    assert response.json()["message"] == "there is no served model 'fruad'; known are fraud; did you mean 'fraud'?"
    assert connect().get("/v1/models/fruad").status_code == 404
    assert "/openapi.json" in connect().get("/v2").json()["message"]
    assert connect().get(PATH).status_code == 405


def test_a_body_announced_as_too_large_is_refused_unread(connect: Connect) -> None:
    url = connect().base_url
    with socket.create_connection((url.host, url.port or 80), timeout=30) as caller:
        caller.sendall(b"POST " + PATH.encode() + b" HTTP/1.1\r\nHost: shop\r\nContent-Length: 2000000\r\n\r\n{")
        answer = caller.recv(4096)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"2000000 bytes, at most 1048576" in answer


def test_a_body_that_grows_too_large_is_refused_when_it_does(connect: Connect) -> None:
    response = connect(max_body_bytes=1000).post(PATH, content=iter([b" " * 600] * 3))
    assert (response.status_code, "more than 1000 bytes" in response.json()["message"]) == (413, True)


def test_too_many_rows_are_refused(connect: Connect) -> None:
    response = connect(max_rows=2).post(PATH, json={"rows": [row()] * 3})
    assert response.status_code == 413
    assert response.json()["message"] == "3 rows in one request, at most 2 are taken; send several requests"


def test_a_request_id_that_cannot_be_logged_is_refused(connect: Connect) -> None:
    response = connect().post(PATH, json={"row": row()}, headers=httpx.Headers({"X-Request-ID": "x" * 129}))
    assert (response.status_code, len(response.json()["request_id"])) == (400, 32)


def test_what_was_refused_is_not_logged(connect: Connect) -> None:
    client = connect()
    client.post(PATH, json={"row": row(items="2")})
    client.post(PATH, json={"row": row(), "at": "2025-12-31T23:00:00Z"})
    assert client.get("/healthz").json()["log"] == {"waiting": 0, "written": 0, "failures": 0, "error": None}
