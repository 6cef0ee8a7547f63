"""What the report draws of labels and predictions, in NumPy."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Points = list[tuple[float, float]]
MOST_POINTS = 200


def roc(labels: Floats, scores: Floats) -> Points:
    """(share of negatives, share of positives) with at least each score, from (0, 0) to (1, 1), about 200 of them."""
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.diff(scores[order]) != 0, True)
    positives, negatives = np.cumsum(labels[order] > 0)[last], np.cumsum(labels[order] <= 0)[last]
    if not len(positives) or not positives[-1] or not negatives[-1]:
        return []
    x, y = np.append(0, negatives / negatives[-1]), np.append(0, positives / positives[-1])
    kept = np.unique(np.linspace(0, len(x) - 1, MOST_POINTS).round().astype(int))
    return list(zip(x[kept].tolist(), y[kept].tolist(), strict=True))


def by_decile(labels: Floats, predictions: Floats) -> Points:
    """(mean prediction, mean label) of each tenth of the rows by prediction; fewer where predictions are equal."""
    edges = np.unique(np.quantile(predictions, np.arange(1, 10) / 10)) if len(predictions) else np.zeros(0)
    place = np.searchsorted(edges, predictions, side="left")
    rows = np.bincount(place, minlength=len(edges) + 1)
    means = [np.bincount(place, weights=one, minlength=len(edges) + 1) for one in (predictions, labels)]
    return [(float(p / n), float(t / n)) for p, t, n in zip(*means, rows, strict=True) if n]


def confusion(labels: Floats, decided: Floats, classes: int) -> NDArray[np.int64]:
    """(classes, classes) rows by label and by what was decided."""
    pairs = labels.astype(np.int64) * classes + decided.astype(np.int64)
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes).astype(np.int64)
