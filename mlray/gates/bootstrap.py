"""Confidence intervals by the bootstrap's percentile method (Efron and Tibshirani, An Introduction to the Bootstrap,
1993, chapter 13): draw as many rows with replacement, compute again, take percentiles of what comes out.

Several figures of one call see the same draws, so that their difference is a paired one. A draw is written as how
often it has each row, (n,) counts that sum to n: an AUC then needs its rows sorted once, not once per draw.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from mlray.training.task import Task

Floats = NDArray[np.float64]
Statistic = Callable[[NDArray[np.int64]], float]


def statistic(task: Task, metric: str, labels: Floats, predictions: Floats) -> Statistic:
    """The task's metric as a function of how often each row counts."""
    if metric == "auc" and predictions.ndim == 1 and not np.isnan(predictions).any():
        return _auc(labels, predictions)
    return lambda counts: task.metrics(np.repeat(labels, counts), np.repeat(predictions, counts, axis=0))[metric]


def replicates(statistics: Sequence[Statistic], rows: int, *, samples: int, seed: Sequence[int]) -> Floats:
    """(samples, len(statistics)) values, one line per draw of `rows` rows; NaN where a draw has none."""
    random = np.random.default_rng(list(seed))
    found = np.empty((samples, len(statistics)))
    for line in found:
        counts = np.bincount(random.integers(0, rows, rows), minlength=rows)
        line[:] = [one(counts) for one in statistics]
    return found


def interval(values: Floats, level: float) -> tuple[float, float]:
    """The middle `level` of the values, NaN left out; NaN where nothing is left."""
    known = values[~np.isnan(values)]
    if not len(known):
        return float("nan"), float("nan")
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _auc(labels: Floats, scores: Floats) -> Statistic:
    _, group = np.unique(scores, return_inverse=True)
    places = int(group.max()) + 1 if len(group) else 0
    positive = labels > 0

    def value(counts: NDArray[np.int64]) -> float:
        all_ = np.bincount(group, weights=counts, minlength=places)
        positives = np.bincount(group, weights=counts * positive, minlength=places)
        negatives = all_ - positives
        below = np.cumsum(negatives) - negatives
        pairs = positives.sum() * negatives.sum()
        return float((positives * (2 * below + negatives)).sum() / (2 * pairs)) if pairs else float("nan")

    return value
