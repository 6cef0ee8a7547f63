"""Scores of a binary classifier, in NumPy. Inputs: (n,) labels in {0, 1} and (n,) probabilities, both float64.

Every figure is a function of the multiset of (label, score) pairs; AUC is so exactly, the others to a rounding.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def auc(labels: Floats, scores: Floats) -> float:
    """P(score of a positive > score of a negative) + P(equal) / 2, by rank sums; NaN where a class is absent.

    >>> auc(np.array([0.0, 1.0, 1.0]), np.array([0.1, 0.1, 0.9]))
    0.75
    """
    _, group, sizes = np.unique(scores, return_inverse=True, return_counts=True)
    positives = np.bincount(group, weights=labels, minlength=len(sizes)).astype(np.int64)
    negatives = sizes - positives
    below = np.cumsum(negatives) - negatives
    pairs = int(positives.sum()) * int(negatives.sum())
    twice = sum((positives * (2 * below + negatives)).tolist())
    return twice / (2 * pairs) if pairs else float("nan")


def log_loss(labels: Floats, scores: Floats) -> float:
    """Mean negative log-likelihood in nats; scores are clipped to [1e-15, 1 - 1e-15]."""
    safe = np.clip(scores, 1e-15, 1 - 1e-15)
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
