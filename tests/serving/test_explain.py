"""Why a prediction is what it is, over HTTP: logged as a prediction, described, bounded, by class; and refusals."""

import socket
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from real_port import served
from shop import NOON, Shop, asked, row, trees
from test_serving_tasks import COLOURS
from test_serving_tasks import predictor as with_task

from mlray.errors import ConfigError
from mlray.gates.explainer import Explainer
from mlray.serving.answer import Explained, ExplainedOfClasses
from mlray.serving.app import Served, open_predictor
from mlray.serving.config import Config
from mlray.serving.prediction_log import PredictionLog, read
from mlray.serving.predictor import Predictor
from mlray.serving.server import WAITING, create_app

PATH = "/v1/models/fraud/explain"


def explaining(shop: Shop, made: Predictor) -> Predictor:
    return replace(made, explainer=Explainer(made.model, shop.features(asked(), NOON)))


@pytest.fixture
def log(tmp_path: Path) -> PredictionLog:
    return PredictionLog(f"{tmp_path}/log", seconds=600)


@pytest.fixture
def ask(log: PredictionLog) -> Iterator[Any]:
    """Connects to a server of one predictor."""
    with ExitStack() as running:

        def connect(made: Predictor) -> httpx.Client:
            app = create_app({"fraud": made}, log, Config(), clock=lambda: int(NOON.timestamp() * 1e6))
            return running.enter_context(served(app))

        yield connect


def test_what_was_explained_was_predicted_and_is_in_the_log(ask: Any, shop: Shop, log: PredictionLog) -> None:
    made = explaining(shop, shop.predictor())
    answer = Explained.model_validate_json(ask(made).post(PATH, json={"rows": [row(), row(amount=900.0)]}).text)

    assert answer.scores == made.model.predict(shop.features([row(), row(amount=900.0)], NOON)).tolist()
    log.flush()
    logged = read(log.root, made.version).sort_by("row").to_pydict()
    assert (logged["score"], set(logged["request_id"])) == (answer.scores, {answer.request_id})


def test_of_several_classes_each_has_its_reasons_by_name(ask: Any, shop: Shop) -> None:
    made = explaining(shop, with_task(shop, COLOURS))
    answer = ExplainedOfClasses.model_validate_json(ask(made).post(PATH, json={"row": row()}).text)

    assert (answer.method, answer.unit) == ("permutation", "probability")
    [told], [scores] = answer.explanations, answer.scores
    assert list(told.output) == list(COLOURS.classes)
    for name in COLOURS.classes:
        added = sum(feature[name] for feature in told.features.values())
        assert told.base[name] + added == pytest.approx(told.output[name]) == pytest.approx(scores[name])


def test_more_rows_than_may_be_explained_at_once_are_refused(ask: Any, shop: Shop) -> None:
    response = ask(explaining(shop, shop.predictor())).post(PATH, json={"rows": [row()] * 21})
    assert (response.status_code, "at most 20 are taken" in response.json()["message"]) == (413, True)


def test_openapi_describes_it_where_there_is_something_to_explain_by(ask: Any, shop: Shop) -> None:
    with_it = ask(explaining(shop, shop.predictor())).get("/openapi.json").json()["paths"]
    described = with_it[PATH]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
    assert described["$ref"].endswith("/Explained")
    assert "429" in with_it[PATH]["post"]["responses"]
    assert PATH not in ask(shop.predictor()).get("/openapi.json").json()["paths"]


def test_a_model_that_is_not_served_is_named(ask: Any, shop: Shop) -> None:
    response = ask(shop.predictor()).post("/v1/models/fruad/explain", json={"row": row()})
    assert (response.status_code, "did you mean 'fraud'" in response.json()["message"]) == (404, True)


def test_predictions_are_the_same_bits_while_others_are_explained(shop: Shop) -> None:
    made, rows = explaining(shop, shop.predictor()), shop.features(asked(), NOON)
    alone = made.model.predict(rows)
    assert made.explainer is not None
    with ThreadPoolExecutor(4) as threads:
        reasons = [threads.submit(made.explainer.explain, rows) for _ in range(3)]
        while not all(one.done() for one in reasons):
            np.testing.assert_array_equal(made.model.predict(rows), alone)
        assert all(one.result().error < 1e-9 for one in reasons)


def test_a_client_that_sends_no_body_stops_nobody_elses_explanation(ask: Any, shop: Shop) -> None:
    client = ask(explaining(shop, shop.predictor()))
    with socket.create_connection((client.base_url.host, client.base_url.port), timeout=10) as silent:
        silent.sendall(f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n".encode())
        assert b"100 Continue" in silent.recv(100)  # its body is waited for
        assert client.post(PATH, json={"row": row()}, timeout=10).status_code == 200


def test_of_many_to_explain_some_wait_and_the_rest_are_refused_while_predictions_are_answered(
    ask: Any, shop: Shop
) -> None:
    made = explaining(shop, shop.predictor())
    client, body = ask(made), {"row": row()}
    assert made.explainer is not None
    with ThreadPoolExecutor(WAITING + 2) as threads:
        with made.explainer._turn:
            sent = [threads.submit(client.post, PATH, json=body) for _ in range(WAITING + 2)]
            refused = next(as_completed(sent, timeout=10)).result()
            assert client.post("/v1/models/fraud/predict", json=body, timeout=10).status_code == 200
        answers = [one.result().status_code for one in sent]
    assert (refused.status_code, refused.json()["error"], refused.headers["Retry-After"]) == (429, "Busy", "1")
    assert sorted(answers) == [200] * (WAITING + 1) + [429]


def test_without_the_package_a_replica_says_which_to_install(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = shop.features(asked(), NOON)
    version = shop.explained("without", trees(vectors.schema, vectors))
    told = Served(versions=(version,), config=Config(explain=True), online=shop.online, artifacts=shop.artifacts,
                  lake=shop.lake, log="", current={})
    monkeypatch.setitem(sys.modules, "shap", None)
    with pytest.raises(ConfigError, match=r"pip install 'mlray\[explain\]'"):
        open_predictor(version, told, shop.store)
