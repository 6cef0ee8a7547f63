"""Binary, multiclass and regression: what a label may be, how good a prediction is, what it comes down to."""

import math
import re

import numpy as np
import pyarrow as pa
import pytest
from sklearn import metrics as known

from mlray.errors import ConfigError, SchemaError
from mlray.training.evaluate import auc, evaluate_classes, evaluate_values, macro_f1
from mlray.training.task import KINDS, Task, kind_of, task_of

FRUIT = Task(kind="multiclass", classes=("apple", "fig", "pear"))
RANDOM = np.random.default_rng(5)
PLACES = RANDOM.integers(0, 3, 200).astype(float)
CHANCES = RANDOM.dirichlet([1, 1, 1], 200)


def column(values: list[object]) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(values)])


@pytest.mark.parametrize(("dtype", "asked", "kind"), [
    (pa.bool_(), None, "binary"),
    (pa.int64(), None, "binary"),
    (pa.string(), None, "multiclass"),
    (pa.dictionary(pa.int32(), pa.string()), None, "multiclass"),
    (pa.int64(), "multiclass", "multiclass"),
    (pa.float32(), "regression", "regression"),
])
def test_the_label_s_type_says_the_task_where_nobody_does(dtype: pa.DataType, asked: str | None, kind: str) -> None:
    assert kind_of("label", dtype, asked) == kind


@pytest.mark.parametrize(("dtype", "asked", "remedy"), [
    (pa.string(), "binary", "train with task='multiclass'"),
    (pa.float64(), "multiclass", "train with task='regression'"),
    (pa.string(), "regression", "train with task='multiclass'"),
    (pa.timestamp("us"), None, "make it a boolean, or 0 and 1"),
])
def test_a_label_that_does_not_go_with_the_task_is_refused(dtype: pa.DataType, asked: str | None, remedy: str) -> None:
    with pytest.raises(SchemaError, match=f"label .price. is {re.escape(str(dtype))}.*{remedy}"):
        kind_of("price", dtype, asked)


def test_a_task_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"task is 'multiclas'.*did you mean 'multiclass'"):
        Task(kind="multiclas")


def test_labels_are_encoded_as_their_task_says() -> None:
    assert Task().encode(column([True, False])).tolist() == [1.0, 0.0]
    assert FRUIT.encode(column(["pear", "apple"])).tolist() == [2.0, 0.0]
    assert Task(kind="multiclass", classes=("2", "10")).encode(column([10, 2])).tolist() == [1.0, 0.0]
    assert Task(kind="regression").encode(column([16777217, 2])).tolist() == [16777217.0, 2.0]  # beyond float32


def test_a_signature_tells_the_task() -> None:
    assert task_of({"task": "multiclass", "classes": ["apple", "fig", "pear"]}) == FRUIT
    assert task_of({"inputs": {}}) == Task()


def test_metrics_of_classes_are_those_of_scikit_learn() -> None:
    found = evaluate_classes(PLACES, CHANCES)

    decided = CHANCES.argmax(axis=1)
    assert found["log_loss"] == pytest.approx(known.log_loss(PLACES, CHANCES), rel=1e-12)
    assert found["auc"] == pytest.approx(known.roc_auc_score(PLACES, CHANCES, multi_class="ovr"), rel=1e-12)
    assert found["accuracy"] == known.accuracy_score(PLACES, decided)
    assert found["macro_f1"] == pytest.approx(known.f1_score(PLACES, decided, average="macro"), rel=1e-12)
    assert found["brier"] == pytest.approx(np.mean(((np.eye(3)[PLACES.astype(int)] - CHANCES) ** 2).sum(axis=1)))


def test_metrics_of_values_are_those_of_scikit_learn() -> None:
    labels, values = RANDOM.normal(50, 9, 100), RANDOM.normal(50, 9, 100)
    found = evaluate_values(labels, values)
    assert found["rmse"] == pytest.approx(known.root_mean_squared_error(labels, values), rel=1e-12)
    assert found["mae"] == pytest.approx(known.mean_absolute_error(labels, values), rel=1e-12)
    assert found["r2"] == pytest.approx(known.r2_score(labels, values), rel=1e-12)


def test_what_cannot_be_measured_is_nan() -> None:
    assert math.isnan(evaluate_values(np.ones(3), np.array([1.0, 2.0, 3.0]))["r2"])
    assert math.isnan(evaluate_classes(np.zeros(4), np.full((4, 2), 0.5))["auc"])
    assert math.isnan(auc(np.ones(2), np.array([0.1, 0.2])))


def test_a_class_that_nobody_has_or_guesses_counts_for_nothing() -> None:
    assert macro_f1(np.array([0, 0, 4]), np.array([0, 0, 4])) == 1.0


def test_a_prediction_comes_down_to_a_label() -> None:
    assert Task().decided(np.array([0.5, 0.49])).tolist() == [1.0, 0.0]
    assert FRUIT.decided(np.array([[0.2, 0.5, 0.3]])).tolist() == [1.0]
    assert FRUIT.names(np.array([[0.2, 0.5, 0.3], [0.4, 0.4, 0.2]])) == ["fig", "apple"]


def test_more_is_better_of_a_score_and_less_of_an_error() -> None:
    assert [Task().greater(name) for name in ("auc", "accuracy", "r2", "log_loss", "rmse")] == [True] * 3 + [False] * 2
    assert [Task(kind=kind).metric for kind in KINDS] == ["auc", "log_loss", "rmse"]
