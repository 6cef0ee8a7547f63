"""A model of several classes, and one of a value, over HTTP: the answer, its description, the log."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from real_port import served
from shop import NOON, Shop, row
from sklearn.dummy import DummyRegressor
from sklearn.linear_model import LogisticRegression

from mlray.serving.answer import Answer, AnswerOfClasses
from mlray.serving.config import Config
from mlray.serving.prediction_log import PredictionLog, read
from mlray.serving.predictor import Predictor
from mlray.serving.server import create_app
from mlray.training.design import Design
from mlray.training.model import Model, Signature
from mlray.training.sklearn_model import SklearnScorer
from mlray.training.task import Task

PATH = "/v1/models/fraud/predict"
COLOURS = Task(kind="multiclass", classes=("blue", "green", "red"))
VALUE = Task(kind="regression")


def predictor(shop: Shop, task: Task) -> Predictor:
    """The shop's with another model: an estimator that was fitted to random rows."""
    known = shop.predictor()
    design, random = Design.of(known.model.preprocessing, one_hot=True), np.random.default_rng(0)
    matrix = random.normal(size=(60, len(design.columns)))
    classes = LogisticRegression().fit(matrix, random.integers(0, 3, 60))
    value = DummyRegressor(strategy="constant", constant=41.5).fit(matrix, matrix[:, 0])
    estimator = classes if task is COLOURS else value
    inputs = dict(known.model.signature.inputs)
    signature = Signature.of(inputs, "colour", task, model="tests:made")
    model = Model(SklearnScorer("tests:made", estimator, design, task), known.model.preprocessing, signature)
    return replace(known, model=model, version=replace(known.version, signature=asdict(signature)))


@pytest.fixture
def asked(shop: Shop, tmp_path: Path) -> Iterator[Any]:
    """Asks a server of a task, and gives the client, the log and the predictor besides."""
    with ExitStack() as running:

        def ask(task: Task) -> tuple[httpx.Client, PredictionLog, Predictor]:
            made, log = predictor(shop, task), PredictionLog(f"{tmp_path}/log", seconds=600)
            app = create_app({"fraud": made}, log, Config(), clock=lambda: int(NOON.timestamp() * 1e6))
            return running.enter_context(served(app)), log, made

        yield ask


def test_classes_are_answered_by_name_and_logged_in_their_order(asked: Any, shop: Shop) -> None:
    client, log, made = asked(COLOURS)
    body = {"rows": [row(), row(user_id=2, amount=900.0)]}
    text = client.post(PATH, json=body).text

    answer = AnswerOfClasses.model_validate_json(text)
    wanted = made.model.predict(shop.features(body["rows"], NOON))
    assert [[scores[name] for name in COLOURS.classes] for scores in answer.scores] == wanted.tolist()
    assert answer.predicted == [COLOURS.classes[place] for place in wanted.argmax(axis=1)]
    log.flush()
    found = read(log.root, made.version).sort_by("row").to_pydict()
    assert (found["score"], found["predicted"]) == (wanted.tolist(), answer.predicted)


def test_a_value_is_answered_as_a_probability_is(asked: Any) -> None:
    client, log, made = asked(VALUE)
    assert Answer.model_validate_json(client.post(PATH, json={"row": row()}).text).scores == [41.5]
    log.flush()
    assert read(log.root, made.version)["score"].to_pylist() == [41.5]


@pytest.mark.parametrize(("task", "model"), [(COLOURS, "AnswerOfClasses"), (VALUE, "Answer")])
def test_openapi_and_the_card_say_what_comes(asked: Any, task: Task, model: str) -> None:
    client, _, _ = asked(task)
    described = client.get("/openapi.json").json()["paths"][PATH]["post"]["responses"]["200"]
    assert described["content"]["application/json"]["schema"]["$ref"].endswith(f"/{model}")
    card = client.get("/v1/models/fraud").json()
    assert (card["task"], card["classes"]) == (task.kind, list(task.classes))
