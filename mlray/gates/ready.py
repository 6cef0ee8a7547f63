"""What the gates need of a run, looked at before a step is trained: nobody trains for an hour to hear of a typing
mistake in a table of the recipe, or of a package that is not installed.
"""

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

import numpy as np

from mlray.errors import ConfigError, SchemaError
from mlray.gates.settings import Bias, Evaluation, Gates
from mlray.offline.spine import ROW
from mlray.training.task import BINARY, MULTICLASS, Task

_NEEDED: Mapping[str, tuple[str, str]] = {"bias": ("fairlearn", "fairness"), "explanation": ("shap", "explain")}
"""By gate, the package and the extra that has it."""


def check_ready(gates: Gates, kind: str, names: list[str], production: Callable[..., Any] | None) -> None:
    """kind: of the task; names: the columns of the training set; production: None where no model is named. ConfigError
    and SchemaError say what a gate asks for that there is not.
    """
    for gate, (package, extra) in _NEEDED.items():
        if getattr(gates, gate) is not None and find_spec(package) is None:
            raise ConfigError(f"[gates.{gate}] needs a package: pip install 'mlray[{extra}]'")
    for gate, key in (("evaluation", "slices"), ("bias", "groups"), ("explanation", "slices")):
        for name in getattr(getattr(gates, gate), key, ()):
            if name not in names:
                known = [one for one in names if one != ROW]
                raise SchemaError.missing_column(f"[gates.{gate}] {key}", name, "the training set", known)
    if gates.evaluation is not None:
        _check_evaluation(gates.evaluation, kind, production)
    if gates.bias is not None:
        _check_bias(gates.bias, kind)


def _check_evaluation(asked: Evaluation, kind: str, production: Callable[..., Any] | None) -> None:
    known = metric_names(kind)
    if asked.metric is not None and asked.metric not in known:
        raise ConfigError.unknown_key("[gates.evaluation] metric", asked.metric, known)
    if production is None and asked.max_drop_vs_production is not None:
        raise ConfigError(
            f"[gates.evaluation] max_drop_vs_production={asked.max_drop_vs_production:g} compares with a version in "
            "Production, and no model is named that has one; say platform.train(..., model='fraud'), or leave it out"
        )


def _check_bias(asked: Bias, kind: str) -> None:
    """Which class is the yes among several is known to the training part alone, so only whether one is named."""
    if kind not in (BINARY, MULTICLASS):
        raise ConfigError(f"[gates.bias] is about yes-or-no decisions and the task is a {kind}; leave it out")
    if kind == MULTICLASS and asked.positive is None:
        raise ConfigError(
            "[gates.bias] is about yes-or-no decisions and the task has several classes; say which is the yes, "
            'positive = "..."; or make the label a boolean where there are only two'
        )


def metric_names(kind: str) -> list[str]:
    """Of the task's own metrics."""
    scores = np.array([[0.75, 0.25], [0.25, 0.75]])
    task = Task(kind=kind, classes=("no", "yes") if kind == MULTICLASS else ())
    return list(task.metrics(np.array([0.0, 1.0]), scores if kind == MULTICLASS else scores[:, 1]))
