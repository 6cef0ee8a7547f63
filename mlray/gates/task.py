"""What the gates ask of a task, and nothing else of it: the task says by which figures a model is judged."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mlray.training.evaluate import evaluate
from mlray.training.statistics import number_column


class Task(Protocol):
    """labels: (n,) 0 and 1, class numbers, or values; predictions: (n,) or (n, classes) float64."""

    @property
    def kind(self) -> str:
        """'binary', 'multiclass' or 'regression'."""

    @property
    def classes(self) -> Sequence[str]:
        """Names of the classes of a multiclass task, in the order of the predictions."""

    @property
    def metric(self) -> str:
        """The name of the metric that counts most."""

    @property
    def greater(self) -> bool:
        """Whether more of it is better."""

    def encode(self, column: pa.ChunkedArray) -> NDArray[Any]:
        """The labels of a column."""

    def metrics(self, labels: NDArray[Any], predictions: NDArray[np.float64]) -> dict[str, float]:
        """By name."""


class Binary:
    """Yes or no: the only task of models that do not say theirs."""

    kind, classes, metric, greater = "binary", (), "auc", True

    def encode(self, column: pa.ChunkedArray) -> NDArray[Any]:
        return number_column(column)

    def metrics(self, labels: NDArray[Any], predictions: NDArray[np.float64]) -> dict[str, float]:
        return evaluate(labels, predictions)


def task_of(model: Any) -> Task:
    """The task of a loaded model."""
    task: Task = getattr(model, "task", None) or Binary()
    return task
