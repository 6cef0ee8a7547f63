"""How good predictions are, in NumPy; all float64.

binary      (n,) labels in {0, 1}, (n,) probabilities of 1
classes     (n,) places of classes, (n, classes) probabilities
values      (n,) numbers, (n,) numbers

Every figure is a function of the multiset of (label, prediction) pairs; AUC is so exactly, the others to a rounding.
The tests compare each with scikit-learn's.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

LEAST = 1e-15
"""Probabilities are clipped to [LEAST, 1 - LEAST] in a log loss."""


def auc(labels: Floats, scores: Floats) -> float:
    """P(score of a positive > score of a negative) + P(equal) / 2, by rank sums; NaN where a class is absent, or a
    score is NaN, which has no rank.

    >>> auc(np.array([0.0, 1.0, 1.0]), np.array([0.1, 0.1, 0.9]))
    0.75
    """
    if np.isnan(scores).any():
        return float("nan")
    _, group, sizes = np.unique(scores, return_inverse=True, return_counts=True)
    positives = np.bincount(group, weights=labels, minlength=len(sizes)).astype(np.int64)
    negatives = sizes - positives
    below = np.cumsum(negatives) - negatives
    pairs = int(positives.sum()) * int(negatives.sum())
    twice = sum((positives * (2 * below + negatives)).tolist())
    return twice / (2 * pairs) if pairs else float("nan")


def log_loss(labels: Floats, scores: Floats) -> float:
    """Mean negative log-likelihood in nats; scores are clipped to [1e-15, 1 - 1e-15]."""
    safe = np.clip(scores, LEAST, 1 - LEAST)
    return float(-np.mean(np.where(labels > 0, np.log(safe), np.log1p(-safe))))


def brier(labels: Floats, scores: Floats) -> float:
    """Mean squared distance of probability and label."""
    return float(np.mean((scores - labels) ** 2))


def accuracy(labels: Floats, scores: Floats, threshold: float = 0.5) -> float:
    """Share of rows where `score >= threshold` is the label."""
    return float(np.mean((scores >= threshold) == (labels > 0)))


def evaluate(labels: Floats, scores: Floats) -> dict[str, float]:
    """All of the above: keys auc, log_loss, brier, accuracy, positive_share."""
    return {
        "auc": auc(labels, scores),
        "log_loss": log_loss(labels, scores),
        "brier": brier(labels, scores),
        "accuracy": accuracy(labels, scores),
        "positive_share": float(np.mean(labels)),
    }


def evaluate_classes(labels: Floats, scores: Floats) -> dict[str, float]:
    """Of several classes: keys auc, log_loss, brier, accuracy, macro_f1.

    auc is the mean over the classes of one against the rest (Provost and Domingos without weights), NaN where a class
    is absent or is all there is; log_loss the mean of -ln of the true class's probability; brier the mean over rows of
    the squared distances summed over the classes (Brier 1950), twice `brier` where there are two.
    """
    place = labels.astype(np.int64)
    truth = np.zeros(scores.shape)
    truth[np.arange(len(place)), place] = 1.0
    likeliest = scores.argmax(axis=1)
    own = np.clip(scores[np.arange(len(place)), place], LEAST, 1 - LEAST)
    return {
        "auc": float(np.mean([auc(truth[:, k], scores[:, k]) for k in range(scores.shape[1])])),
        "log_loss": float(-np.mean(np.log(own))),
        "brier": float(np.mean(((scores - truth) ** 2).sum(axis=1))),
        "accuracy": float(np.mean(likeliest == place)),
        "macro_f1": macro_f1(place, likeliest),
    }


def macro_f1(labels: NDArray[np.int64], decided: NDArray[np.int64]) -> float:
    """The mean of 2 TP / (2 TP + FP + FN) over the classes that occur among labels or decisions.

    >>> macro_f1(np.array([0, 0, 1]), np.array([0, 1, 1]))
    0.6666666666666666
    """

    def each() -> Iterator[float]:
        for k in np.union1d(labels, decided):
            hits = int(((labels == k) & (decided == k)).sum())
            yield 2 * hits / (int((labels == k).sum()) + int((decided == k).sum()))

    return float(np.mean(list(each())))


def evaluate_values(labels: Floats, values: Floats) -> dict[str, float]:
    """Of numbers: keys rmse, mae, r2 = 1 - sum of squared errors / sum of squared distances from the labels' mean, NaN
    where the labels do not vary.
    """
    errors = values - labels
    spread = float(((labels - labels.mean()) ** 2).sum())
    return {
        "rmse": float(np.sqrt(np.mean(errors**2))),
        "mae": float(np.mean(np.abs(errors))),
        "r2": 1 - float((errors**2).sum()) / spread if spread else float("nan"),
    }
