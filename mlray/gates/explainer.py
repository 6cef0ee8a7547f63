"""SHAP values of a model, per feature of the service; how they are computed is in `shapley`.

What a column of the model's input adds, an embedding's or a one-hot one's, counts for the feature that it comes from.
Base and values of a row sum to its output, in one of these units:

    log-odds      of a classifier of two: a network, boosted trees     probability   of other classifiers
    logits        per class, of several: the logarithms of their shares, but for what they have in common
    value         of a regression, in the label's unit                 logarithm     of that, as of a Poisson regression

A way of computing them is believed only where it adds up on the background, and where its outputs are those from which
the model's predictions follow; the next one is taken where not.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import feather

from mlray.errors import ExplanationFailed, UnknownName
from mlray.gates.shapley import TOLERANCE, Floats, Method, methods
from mlray.training.model import Model
from mlray.training.preprocessing import Encoded
from mlray.training.task import REGRESSION, Task

BACKGROUND_FILE = "background.arrow"
_TRIED = 10
"""Rows of the background on which a method is tried."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Explanation:
    """features: names; values: (n, features, outputs); base: (outputs,); outputs: (n, outputs) of the model, in `unit`;
    deviation: of the background's outputs.
    """

    method: str
    unit: str
    features: tuple[str, ...]
    values: Floats
    base: Floats
    outputs: Floats
    deviation: float

    @property
    def error(self) -> float:
        """The largest |base + sum of values - output| of a row, as a share of the deviation."""
        return _error(self.base, self.values, self.outputs, self.deviation)

    @property
    def tolerance(self) -> float:
        """How large the error may be."""
        return TOLERANCE[self.method]

    def importance(self, rows: Any = slice(None)) -> dict[str, float]:
        """Mean |value| per feature, over rows and outputs, the largest first."""
        mean = np.abs(self.values[rows]).mean(axis=(0, 2))
        order = sorted(range(len(self.features)), key=lambda i: (-mean[i], self.features[i]))
        return {self.features[i]: float(mean[i]) for i in order}

    def each(self, classes: Sequence[str] = ()) -> Iterator[dict[str, Any]]:
        """Row by row {"base": ..., "output": ..., "features": {name: what it adds}}, the largest first; by class where
        there are several. ExplanationFailed where they do not add up.
        """
        if not self.error <= self.tolerance:
            raise ExplanationFailed(
                f"base and SHAP values miss the model's output by {self.error:.3g} of its deviation, allowed are "
                f"{self.tolerance:g}: what they tell is not this model; ask without an explanation"
            )
        place = {name: i for i, name in enumerate(self.features)}
        for row in range(len(self.outputs)):
            yield {
                "base": _named(self.base, classes),
                "output": _named(self.outputs[row], classes),
                "features": {n: _named(self.values[row, place[n]], classes) for n in self.importance([row])},
            }


class Explainer:
    """Explains rows of one model, beside the rows of `background`: what the model says where a feature is not known.
    Safe to share between threads, which take turns.
    """

    def __init__(self, model: Model, background: pa.Table) -> None:
        """ConfigError where the package is not installed; ExplanationFailed where no method is about this model."""
        encoded = model.preprocessing.encode(background)
        self.background, self._model, self._turn = background, model, Lock()
        self._method, self._unit, self._deviation = _chosen(model, encoded)
        place = {name: i for i, name in enumerate(model.features)}
        self._column = [place[name] for name in self._method.columns]

    @classmethod
    def of(cls, model: Model, checkpoint: str | Path) -> "Explainer":
        """With the background that the run kept in its checkpoint; UnknownName where it kept none."""
        path = Path(checkpoint, BACKGROUND_FILE)
        if not path.exists():
            raise UnknownName(f"there is no {BACKGROUND_FILE} in {checkpoint}: train with [gates.explanation]")
        return cls(model, feather.read_table(path))

    def explain(self, rows: pa.Table) -> Explanation:
        """Of feature vectors, as `Model.predict` takes them."""
        encoded = self._model.preprocessing.encode(rows)
        with self._turn:  # shap keeps what it computes in the layers of the network
            values, outputs = self._method.values(encoded), self._method.outputs(encoded)
        summed = np.zeros((len(outputs), len(self._model.features), outputs.shape[1]))
        for column, place in enumerate(self._column):
            summed[:, place] += values[:, column]
        return Explanation(
            method=self._method.name,
            unit=self._unit,
            features=self._model.features,
            values=summed,
            base=self._method.base,
            outputs=outputs,
            deviation=self._deviation,
        )


def _chosen(model: Model, background: Encoded) -> tuple[Method, str, float]:
    """The first method that is about this model, the unit of its outputs, and their deviation over the background."""
    some = Encoded(background.numbers[:_TRIED], background.codes[:_TRIED], background.unseen)
    said = model.scorer.scores(some.numbers, some.codes)
    for method in methods(model, background):
        unit = unit_of(method.outputs(some), said, model.task)
        if unit is None:
            continue
        deviation = _deviation(method.outputs(background), unit)
        if _error(method.base, method.values(some), method.outputs(some), deviation) <= TOLERANCE[method.name]:
            return method, unit, deviation
    raise ExplanationFailed(
        f"'{model.scorer.model}' cannot be explained: no way of computing SHAP values adds up to what it says of the "
        "training rows; a model whose predictions are no numbers there, or change from call to call, has none"
    )


def unit_of(outputs: Floats, predictions: Floats, task: Task) -> str | None:
    """In which unit these outputs say what the model predicts; None where its predictions do not follow from them."""
    told = predictions.reshape(len(predictions), -1)
    if outputs.shape != told.shape:
        return None
    with np.errstate(over="ignore", invalid="ignore"):
        powers = np.exp(outputs - outputs.max(axis=1, keepdims=True))
        follow: Mapping[str, Floats] = (
            {"value": outputs, "logarithm": np.exp(outputs)}
            if task.kind == REGRESSION
            else {
                "probability": outputs,
                "log-odds": 1 / (1 + np.exp(-outputs)),
                "logits": powers / powers.sum(axis=1, keepdims=True),
            }
        )
    near = 1e-6 * np.abs(told).max(initial=0.0)  # of the largest: where all are tiny, not anything tiny is one of them
    return next((unit for unit, found in follow.items() if np.allclose(found, told, rtol=1e-4, atol=near)), None)


def _deviation(outputs: Floats, unit: str) -> float:
    """The standard deviation of the outputs; of a classifier's, which have a scale of their own, at least 1."""
    found = float(outputs.std())
    return found or 1.0 if unit == "value" else max(found, 1.0)


def _error(base: Floats, values: Floats, outputs: Floats, deviation: float) -> float:
    gaps = np.abs(base + values.sum(axis=1) - outputs)
    return float(gaps.max(initial=0.0)) / deviation


def _named(values: Floats, classes: Sequence[str]) -> Any:
    """The one number of an output, or one per class."""
    return dict(zip(classes, values.tolist(), strict=True)) if classes else float(values[0])
