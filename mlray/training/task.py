"""What is predicted: one of two, one of several classes, or a number; and what follows from that, in NumPy.

            label column                   labels (encoded)         predictions
binary      boolean, or 0 and 1            (n,) float32 0 or 1      (n,) probability of 1
multiclass  text, integer or boolean       (n,) float32 place in    (n, classes) probabilities, each row sums to 1
                                           `classes`
regression  finite numbers                 (n,) float64             (n,) value
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt
from numpy.typing import NDArray

from mlray.errors import ConfigError, SchemaError, did_you_mean
from mlray.training import evaluate
from mlray.training.columns import number_column

BINARY, MULTICLASS, REGRESSION = "binary", "multiclass", "regression"
KINDS = (BINARY, MULTICLASS, REGRESSION)

Floats = NDArray[np.float64]

LESS_IS_BETTER = ("log_loss", "brier", "rmse", "mae")

_CRITERIA: Mapping[str, str] = {BINARY: "auc", MULTICLASS: "log_loss", REGRESSION: "rmse"}
_OUTPUTS: Mapping[str, str] = {
    BINARY: "probability: double",
    MULTICLASS: "probabilities: double per class",
    REGRESSION: "value: double",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """kind: one of KINDS; classes: names of the classes of a multiclass task, in the order of the predictions."""

    kind: str = BINARY
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_kind(self.kind)
        if self.classes and self.kind != MULTICLASS:
            raise ConfigError(f"training: a {self.kind} task has no classes; they are given as {self.classes}")

    @property
    def outputs(self) -> int:
        """How many numbers a network gives for a row."""
        return len(self.classes) if self.kind == MULTICLASS else 1

    @property
    def metric(self) -> str:
        """Which metric of the validation rows says that one epoch is better than another."""
        return _CRITERIA[self.kind]

    def greater(self, metric: str) -> bool:
        """Whether more of it is better, as of any metric that is not an error or a loss."""
        return metric not in LESS_IS_BETTER

    @property
    def output(self) -> str:
        """The name and type of a prediction, for people."""
        return _OUTPUTS[self.kind]

    def encode(self, column: pa.ChunkedArray) -> NDArray[Any]:
        """(n,) labels as in the table above; a class that the task does not know is NaN, like null."""
        if self.kind == REGRESSION:
            return number_column(column)
        if self.kind == BINARY:
            return number_column(column).astype(np.float32)
        place = pc.index_in(class_column(column), value_set=pa.array(self.classes, pa.large_string()))
        return np.asarray(place.cast(pa.float32()).to_numpy(), dtype=np.float32)

    def metrics(self, labels: NDArray[Any], predictions: Floats) -> dict[str, float]:
        """labels as `encode` gives them, without NaN. By name, see evaluate.py."""
        known = labels.astype(np.float64)
        if self.kind == BINARY:
            return evaluate.evaluate(known, predictions)
        if self.kind == REGRESSION:
            return evaluate.evaluate_values(known, predictions)
        return evaluate.evaluate_classes(known, predictions)

    def decided(self, predictions: Floats) -> Floats:
        """(n,) the label that each prediction comes down to, encoded: 1 from 0.5 on, the likeliest class, the value."""
        if self.kind == BINARY:
            return (predictions >= 0.5).astype(np.float64)
        return predictions if self.kind == REGRESSION else predictions.argmax(axis=1).astype(np.float64)

    def names(self, predictions: Floats) -> list[str]:
        """Of a multiclass task, the likeliest class of each row; the first of equals."""
        return [self.classes[place] for place in predictions.argmax(axis=1).tolist()]


def task_of(signature: Mapping[str, Any]) -> Task:
    """The task that a model's signature records; a signature from before there were tasks is of a binary one."""
    return Task(kind=signature.get("task", BINARY), classes=tuple(signature.get("classes", ())))


def kind_of(label: str, dtype: pa.DataType, asked: str | None) -> str:
    """The kind asked for, or what the label's type says: text is multiclass, else binary. SchemaError where they do
    not go together.
    """
    text = is_text(dtype)
    kind = asked or (MULTICLASS if text else BINARY)
    check_kind(kind)
    number = pt.is_boolean(dtype) or pt.is_integer(dtype) or pt.is_floating(dtype)
    fits = {
        BINARY: number,
        MULTICLASS: text or pt.is_integer(dtype) or pt.is_boolean(dtype),
        REGRESSION: number and not pt.is_boolean(dtype),
    }
    if not fits[kind]:
        needed = {
            BINARY: "make it a boolean, or 0 and 1, or train with task='multiclass'",
            MULTICLASS: "make it text or an integer, or train with task='regression'",
            REGRESSION: "make it a number, or train with task='multiclass'",
        }
        raise SchemaError(f"label '{label}' is {dtype}, which is no label of a {kind} task; {needed[kind]}")
    return kind


def check_kind(kind: str) -> None:
    if kind not in KINDS:
        raise ConfigError(f"training: task is '{kind}'{did_you_mean(kind, KINDS)}")


def class_column(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Class names as large_string: text as it is, integers in decimal, booleans as false and true."""
    return column.cast(pa.large_string())


def class_order(names: set[str], dtype: pa.DataType) -> tuple[str, ...]:
    """Classes in their order: integers by value, else by text."""
    return tuple(sorted(names, key=int)) if pt.is_integer(dtype) else tuple(sorted(names))


def is_text(dtype: pa.DataType) -> bool:
    if pt.is_dictionary(dtype):
        return is_text(dtype.value_type)
    return bool(pt.is_string(dtype) or pt.is_large_string(dtype))
