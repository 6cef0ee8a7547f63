"""What a good request is answered."""

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import httpx
import pyarrow as pa
from shop import HOUR, NOON, Connect, Shop, bits, row

from mlray.serving.answer import Answer

PATH = "/v1/models/fraud/predict"


def test_a_row_is_scored_by_the_pinned_version_as_of_its_arrival(connect: Connect, shop: Shop) -> None:
    answer = connect().post(PATH, json={"row": row()}).json()
    assert (answer["model"], answer["q"]) == ("fraud/1", ["2026-01-10T12:00:00.000000Z"])
    assert answer["scores"] == shop.predictor().model.predict(shop.features([row()], NOON)).tolist()
    assert "features" not in answer


def test_vectors_on_request_are_those_of_get_features_to_the_bit(connect: Connect, shop: Shop) -> None:
    asked = [row(), row(user_id=2, amount=1 / 3), row(user_id=99, channel="fax"), row(gift=True, items=0)]
    answer = connect().post(PATH, json={"rows": asked, "features": True}).json()
    wanted = shop.features(asked, NOON)
    assert list(answer["features"][0]) == wanted.column_names
    for name in wanted.column_names:
        got = pa.chunked_array([pa.array([v[name] for v in answer["features"]], wanted.schema.field(name).type)])
        assert bits(wanted.column(name)) == bits(got), name


def test_many_rows_are_answered_in_their_order_as_each_alone(connect: Connect) -> None:
    client, asked = connect(), [row(user_id=user, amount=amount) for user in (1, 2, 3) for amount in (0.5, 700.0)]
    together = client.post(PATH, json={"rows": asked}).json()["scores"]
    alone = [client.post(PATH, json={"row": one}).json()["scores"][0] for one in asked]
    assert len(set(together)) == len(asked)
    assert all(abs(a - b) < 1e-12 for a, b in zip(together, alone, strict=True))


def test_an_instant_for_all_rows_or_one_for_each_moves_the_features(connect: Connect) -> None:
    #           07:00  08:00  09:00        user 1 buys; an event at q does not count yet
    # counts    0      1      2      3
    times = ["2026-01-10T07:00:00Z", "2026-01-10T08:00:00.000001+00:00", "2026-01-10T11:00:00+02:00"]
    body = {"rows": [row()] * 3, "at": times, "features": True}
    answer = connect().post(PATH, json=body).json()
    assert [vector["count_7d"] for vector in answer["features"]] == [0, 2, 2]
    assert answer["q"][2] == "2026-01-10T09:00:00.000000Z"
    same = connect().post(PATH, json={**body, "at": times[1]}).json()
    assert [vector["count_7d"] for vector in same["features"]] == [2, 2, 2]


def test_an_unknown_key_and_a_null_one_are_answered_as_in_training(connect: Connect) -> None:
    body = {"rows": [row(user_id=99), row(user_id=None)], "features": True}
    unknown, none = connect().post(PATH, json=body).json()["features"]
    assert (unknown["count_7d"], unknown["country"], unknown["amount_mean_7d"]) == (0, None, None)
    assert (none["count_7d"], none["country"], none["amount_sum_1d"]) == (None, None, unknown["amount_sum_1d"])


def test_numbers_of_json_fit_where_they_are_whole(connect: Connect) -> None:
    body = {"rows": [row(items=2.0, amount=12, user_id=1.0), row(items=2, amount=12.0)], "features": True}
    first, second = connect().post(PATH, json=body).json()["features"]
    assert first == second


def test_infinities_and_missing_values_are_null_and_a_large_number_is_itself(connect: Connect, shop: Shop) -> None:
    asked = [row(user_id=3), row(user_id=99), row(user_id=2, amount=1e308)]
    assert shop.features(asked, NOON).column("amount_vs_usual").to_pylist() == [float("inf"), None, 1e307]
    text = connect().post(PATH, json={"rows": asked, "features": True}).text
    assert "Infinity" not in text
    assert [vector["amount_vs_usual"] for vector in json.loads(text)["features"]] == [None, None, 1e307]


def test_the_answer_is_as_openapi_describes_it(connect: Connect) -> None:
    given = {"X-Request-ID": "order-7"}
    response = connect().post(PATH, json={"row": row(), "features": True}, headers=given)
    answer = Answer.model_validate_json(response.text)
    assert answer.request_id == response.headers["x-request-id"] == "order-7"
    assert answer.q == [NOON]


def test_openapi_names_every_field_of_a_row_with_its_type(connect: Connect) -> None:
    document = connect().get("/openapi.json").json()
    operation = document["paths"][PATH]["post"]
    many, one = operation["requestBody"]["content"]["application/json"]["schema"]["oneOf"]
    properties = one["properties"]["row"]["properties"]
    assert {name: kind["type"][0] for name, kind in properties.items()} == {
        "amount": "number", "items": "integer", "channel": "string", "gift": "boolean", "joined": "string",
        "born": "string", "user_id": "integer",
    }
    assert many["properties"]["rows"]["maxItems"] == 1000
    assert {"200", "400", "404", "413", "422", "503"} <= set(operation["responses"])


def test_a_model_card_says_what_it_takes_and_how_it_did(connect: Connect, shop: Shop) -> None:
    card = connect().get("/v1/models/fraud").json()
    assert (card["reference"], card["service_hash"]) == ("fraud/1", shop.version.service_hash)
    assert card["keys"] == {"user_id": "int64", "channel": "string"}
    assert card["request_fields"]["joined"] == "timestamp[us, tz=UTC]"
    assert card["features"]["count_7d"] == "int64"
    assert card["metrics"] == {"test_auc": 0.75, "seconds": None}
    assert connect().get("/v1/models").json() == {"models": [card]}


def test_requests_at_the_same_time_get_their_own_answers(connect: Connect) -> None:
    client, amounts = connect(), [float(i) for i in range(40)]
    with ThreadPoolExecutor(8) as callers:
        answers = list(callers.map(lambda amount: _ask(client, amount), amounts))
    assert [vector["amount"] for vector in answers] == amounts


def _ask(client: httpx.Client, amount: float) -> dict[str, float]:
    answer = client.post(PATH, json={"row": row(amount=amount), "features": True}).json()
    vector: dict[str, float] = answer["features"][0]
    return vector


def test_an_instant_of_the_future_is_answered_with_what_is_known(connect: Connect) -> None:
    body = {"row": row(), "at": (NOON + timedelta(days=6) + 22 * HOUR).isoformat(), "features": True}
    assert connect().post(PATH, json=body).json()["features"][0]["count_7d"] == 0
