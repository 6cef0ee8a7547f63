"""The gate `evaluation`: what is asked of the whole, of slices and beside Production, and what a failure says."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from mlray.errors import ConfigError
from mlray.gates.evaluation import Incumbent, evaluate
from mlray.gates.result import Result
from mlray.gates.scored import Scored
from mlray.gates.settings import Evaluation
from mlray.training.evaluate import auc
from mlray.training.task import Task

ROWS = 2000
RANDOM = np.random.default_rng(0)
LABELS = (RANDOM.random(ROWS) < 0.3).astype(np.float64)
GOOD = LABELS + RANDOM.normal(0, 0.7, ROWS)
BAD = LABELS + RANDOM.normal(0, 3, ROWS)
COUNTRY = np.where(np.arange(ROWS) < 1500, "DE", np.where(np.arange(ROWS) < 1990, "FR", "PT"))


def found(scores: np.ndarray, theirs: np.ndarray | None = None, **settings: Any) -> Result:
    scored = Scored(labels=LABELS, predictions=scores, theirs=theirs, columns=pa.table({"country": COUNTRY}))
    incumbent = None if theirs is None else Incumbent(reference="shop/3")
    return evaluate(scored, Task(), Evaluation(samples=50, **settings), incumbent)


def test_the_whole_has_every_metric_of_the_task_and_an_interval_around_the_one_that_counts() -> None:
    whole = found(GOOD).details["whole"]
    assert whole["auc"]["value"] == auc(LABELS, GOOD)
    assert whole["auc"]["low"] < whole["auc"]["value"] < whole["auc"]["high"] < whole["auc"]["low"] + 0.1
    assert set(whole) == {"auc", "log_loss", "brier", "accuracy", "positive_share"}


def test_a_model_worse_than_asked_for_fails_and_the_message_says_by_which_figure() -> None:
    assert found(GOOD, threshold=0.7).passed
    failed = found(BAD, threshold=0.7)
    assert not failed.passed
    assert failed.problems == (f"auc is {auc(LABELS, BAD):.4f} on 2,000 test rows, asked for 0.7",)
    assert (failed.value, failed.threshold) == (auc(LABELS, BAD), 0.7)


def test_less_is_better_of_a_loss() -> None:
    scores = np.clip(GOOD, 0.01, 0.99)
    assert found(scores, metric="log_loss", threshold=5.0).passed
    assert not found(scores, metric="log_loss", threshold=0.01).passed


def test_each_slice_is_judged_but_one_of_few_rows_which_is_named_as_such() -> None:
    scores = np.where(COUNTRY == "DE", GOOD, 0.5)
    result = found(scores, slices=("country",), min_rows=100, slice_threshold=0.6)
    lines = {line["slice"]: line for line in result.details["slices"]}
    assert result.problems == ("auc is 0.5000 for country = FR (490 rows), asked for 0.6",)
    assert lines["DE"]["value"] == auc(LABELS[:1500], GOOD[:1500])
    assert (lines["PT"]["rows"], lines["PT"]["small"], lines["PT"]["value"]) == (10, True, None)
    assert result.notes[-1] == "by country, not judged, as of fewer than 100 rows: PT (10 rows)"


def test_a_slice_of_one_class_is_named_as_not_judged_and_its_threshold_does_not_pass_it() -> None:
    ours = np.where(COUNTRY == "FR", 0.0, LABELS)  # in FR nobody ever buys
    scored = Scored(labels=ours, predictions=GOOD, columns=pa.table({"country": COUNTRY}))
    asked = Evaluation(samples=10, slices=("country",), slice_threshold=0.6)
    result = evaluate(scored, Task(), asked)
    line = next(line for line in result.details["slices"] if line["slice"] == "FR")
    assert (line["rows"], line["value"], line["why"]) == (490, None, "fewer than 10 rows of label 1")
    assert result.passed  # by what could be judged: DE
    assert "by country, not judged, as of fewer than 10 rows of label 1: FR (490 rows)" in result.notes


def test_where_no_slice_can_be_judged_a_threshold_for_slices_is_not_met() -> None:
    result = found(GOOD, slices=("country",), min_rows=5000, slice_threshold=0.6)
    assert result.problems == ("no slice by country has enough rows to ask it for auc 0.6, "
                               "see min_rows and min_of_label in [gates.evaluation]",)
    assert found(GOOD, slices=("country",), min_rows=5000).passed  # nothing is asked of them


def test_a_threshold_for_slices_without_slices_is_refused_when_it_is_declared() -> None:
    with pytest.raises(ConfigError, match=r"slice_threshold=0.6 is for slices, and none are named"):
        Evaluation(slice_threshold=0.6)


def test_a_model_worse_than_production_on_the_same_rows_by_more_than_allowed_fails() -> None:
    result = found(BAD, GOOD, max_drop_vs_production=0.01)
    beside = result.details["production"]
    assert beside["better"] == pytest.approx(auc(LABELS, BAD) - auc(LABELS, GOOD))
    assert beside["low"] < beside["better"] < beside["high"] < 0
    assert "worse than shop/3 in Production on the same rows" in result.problems[0]
    assert found(GOOD, BAD, max_drop_vs_production=0.01).passed
    assert found(BAD, GOOD).passed  # no rule, no failure: it is only told


def test_a_production_that_cannot_be_scored_here_is_said_and_fails_nothing() -> None:
    scored = Scored(labels=LABELS, predictions=GOOD)
    why = Incumbent(reference="shop/3", why="it reads amount, which this training set does not have; not compared")
    result = evaluate(scored, Task(), Evaluation(samples=10, max_drop_vs_production=0.0), why)
    assert result.passed
    assert result.notes == (f"Production is shop/3: {why.why}",)


def test_a_figure_that_cannot_be_computed_is_no_pass() -> None:
    scored = Scored(labels=np.zeros(50), predictions=np.full(50, 0.5))
    result = evaluate(scored, Task(), Evaluation(samples=10))
    assert not result.passed
    assert result.problems == ("auc cannot be computed on the test rows",)
    assert result.gate("").value is None


def test_predictions_that_are_no_numbers_are_no_pass_by_any_metric() -> None:
    scores = np.where(np.arange(ROWS) < 3, np.nan, GOOD)
    assert found(scores).problems[-1] == "the prediction of 3 test rows is no number"
    assert found(scores).gate("").value is None
    assert found(scores, metric="accuracy").problems == ("the prediction of 3 test rows is no number",)


def test_a_metric_that_the_task_does_not_have_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"there is no setting 'acc'.* did you mean 'auc'"):
        found(GOOD, metric="acc")


def test_several_classes_and_numbers_are_judged_by_their_own_metric() -> None:
    classes, random = Task(kind="multiclass", classes=("a", "b", "c")), np.random.default_rng(1)
    labels = random.integers(0, 3, 600).astype(np.float64)
    shares = np.full((600, 3), 0.1) + 0.7 * (labels[:, None] == np.arange(3))
    result = evaluate(Scored(labels=labels, predictions=shares), classes, Evaluation(samples=10, threshold=0.5))
    assert (result.passed, result.details["metric"], result.details["greater"]) == (True, "log_loss", False)

    values = random.normal(0, 1, 600)
    numbers = Scored(labels=values, predictions=values + 2.0, theirs=values + 1.0)
    asked = Evaluation(samples=10, max_drop_vs_production=0.5)
    result = evaluate(numbers, Task(kind="regression"), asked, Incumbent(reference="shop/3"))
    assert result.problems == (
        "rmse is 1.0000 worse than shop/3 in Production on the same rows (-1.0000 to -1.0000), allowed are 0.5",
    )
