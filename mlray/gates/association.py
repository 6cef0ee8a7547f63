"""How well one column alone tells the label: between 0.5, not at all, and 1, entirely. In NumPy.

Of classes it is the AUC, in whichever direction is larger, of the class that is told best against the others; of a
number it is (1 + |Spearman's rank correlation|) / 2. A missing value is also something to tell by. A text is told by
the mean label of its value in the other half of the rows: within its own it would tell itself.
"""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.types as pt
from numpy.typing import NDArray

from mlray.training.evaluate import auc
from mlray.training.task import Task

FEWEST = 30
"""Rows with the value, and rows of each class among them, below which nothing is concluded."""

Floats = NDArray[np.float64]


def strength(labels: Floats, column: pa.ChunkedArray, task: Task) -> float:
    """Of one column; NaN where its values, or the labels, are too few."""
    found = [told(target, values, task) for target in targets(labels, task) for values in _views(column, target)]
    return max((one for one in found if not np.isnan(one)), default=float("nan"))


def targets(labels: Floats, task: Task) -> Iterator[Floats]:
    """What is to be told: the label of two classes or of a number, each class of several against the others."""
    if task.kind != "multiclass":
        yield labels
        return
    for place in range(len(task.classes)):
        yield (labels == place).astype(np.float64)


def told(target: Floats, values: Floats, task: Task) -> float:
    """By the rows whose value is known."""
    known = ~np.isnan(values)
    target, values = target[known], values[known]
    if task.kind == "regression":
        return (1 + abs(spearman(target, values))) / 2 if len(values) >= FEWEST else float("nan")
    if min(np.sum(target > 0), np.sum(target == 0)) < FEWEST:
        return float("nan")
    one = auc(target, values)
    return max(one, 1 - one)


def spearman(left: Floats, right: Floats) -> float:
    """The rank correlation; equal values share their mean rank. 0 where one side does not vary."""
    a, b = (ranks - ranks.mean() for ranks in (_ranks(left), _ranks(right)))
    spread = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / spread) if spread else 0.0


def numbers(column: pa.ChunkedArray) -> Floats | None:
    """The column as float64 with NaN for null, an instant as its place in time; None for what is no number."""
    kind = column.type
    if pt.is_timestamp(kind) or pt.is_date64(kind) or pt.is_duration(kind):
        column = column.cast(pa.int64(), safe=False)
    elif not (pt.is_boolean(kind) or pt.is_integer(kind) or pt.is_floating(kind) or pt.is_decimal(kind)):
        return None
    return np.asarray(column.cast(pa.float64(), safe=False).to_numpy(), np.float64)


def _views(column: pa.ChunkedArray, target: Floats) -> Iterator[Floats]:
    """The numbers by which a column may tell: its values, and whether they are missing."""
    values = numbers(column)
    missing = np.asarray(column.is_null().to_numpy(), np.float64)
    if values is not None:
        yield values
        missing = np.isnan(values).astype(np.float64)
    elif pt.is_string(column.type) or pt.is_large_string(column.type) or pt.is_dictionary(column.type):
        yield _by_other_half(column, target)
    if missing.any():
        yield missing


def _by_other_half(column: pa.ChunkedArray, target: Floats) -> Floats:
    """Per row the mean target of the rows of the other parity that have its text; NaN for null and for unseen ones."""
    texts = column.cast(pa.large_string()).combine_chunks().dictionary_encode()
    codes = np.asarray(texts.indices.fill_null(-1).to_numpy(zero_copy_only=False), np.int64)
    found = np.full(len(codes), np.nan)
    for half in (0, 1):
        ours, theirs = np.arange(half, len(codes), 2), np.arange(1 - half, len(codes), 2)
        theirs = theirs[codes[theirs] >= 0]
        rows = np.bincount(codes[theirs], minlength=len(texts.dictionary))
        total = np.bincount(codes[theirs], weights=target[theirs], minlength=len(texts.dictionary))
        means = np.where(rows > 0, total / np.maximum(rows, 1), np.nan)
        found[ours] = np.where(codes[ours] >= 0, means[codes[ours]] if len(means) else np.nan, np.nan)
    return found


def _ranks(values: Floats) -> Floats:
    _, group, sizes = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(sizes)
    return (ends - (sizes - 1) / 2)[group]
