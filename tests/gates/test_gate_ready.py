"""What a gate asks for that there is not is said before a step is trained."""

import sys
from typing import Any

import numpy as np
import pytest

from mlray.errors import ConfigError, SchemaError
from mlray.gates.ready import check_ready, metric_names
from mlray.gates.settings import Bias, Evaluation, Explanation, Gates
from mlray.training.evaluate import evaluate, evaluate_values

NAMES = ["amount", "country", "bought", "__row"]


def ready(kind: str = "binary", production: Any = None, **gates: Any) -> None:
    check_ready(Gates(**gates), kind, NAMES, production)


def test_gates_that_have_what_they_ask_for_are_ready() -> None:
    asked = Evaluation(metric="log_loss", slices=("country",), max_drop_vs_production=0.1)
    ready(evaluation=asked, bias=Bias(groups=("country",)), explanation=Explanation(), production=lambda _: None)
    ready("multiclass", bias=Bias(groups=("country",), positive="yes"))


@pytest.mark.parametrize(("gates", "told"), [
    ({"evaluation": Evaluation(slices=("contry",))}, r"\[gates.evaluation\] slices: column 'contry'.*mean 'country'"),
    ({"bias": Bias(groups=("sex",))}, r"\[gates.bias\] groups: column 'sex' is not in the training set; known"),
    ({"explanation": Explanation(slices=("contry",))}, r"\[gates.explanation\] slices: column 'contry'"),
])
def test_a_column_that_the_training_set_does_not_have_is_named(gates: dict[str, Any], told: str) -> None:
    with pytest.raises(SchemaError, match=told):
        ready(**gates)


def test_a_metric_that_the_task_does_not_have_is_named() -> None:
    with pytest.raises(ConfigError, match=r"metric: there is no setting 'auc'.*mae, r2, rmse"):
        ready("regression", evaluation=Evaluation(metric="auc"))


def test_a_rule_about_production_needs_a_model_by_name() -> None:
    with pytest.raises(ConfigError, match=r"no model is named that has one; say platform.train\(..., model='fraud'\)"):
        ready(evaluation=Evaluation(max_drop_vs_production=0.01))


@pytest.mark.parametrize(("kind", "told"), [("regression", "the task is a regression"), ("multiclass", "positive = ")])
def test_bias_is_asked_of_decisions_only(kind: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        ready(kind, bias=Bias(groups=("country",)))


@pytest.mark.parametrize(("package", "extra", "gate"), [
    ("fairlearn", "fairness", {"bias": Bias(groups=("country",))}), ("shap", "explain", {"explanation": Explanation()}),
])
def test_a_package_that_is_missing_is_named_with_its_extra(
    package: str, extra: str, gate: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=rf"pip install 'mlray\[{extra}\]'"):
        ready(**gate)


def test_the_metrics_of_a_task_are_those_that_it_computes() -> None:
    labels = scores = np.array([0.0, 1.0])
    assert metric_names("binary") == list(evaluate(labels, scores))
    assert metric_names("regression") == list(evaluate_values(labels, scores))
    assert "macro_f1" in metric_names("multiclass")
