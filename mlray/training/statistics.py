"""What is learned from the training rows, as integers: any blocks, in any order, merge to the same bits.

A number x enters as s = sign(x) * log1p(|x|), which tames heavy tails and is finite for every finite x, on a grid of
2**-32. Its sum and its sum of squares are exact integers: the square is split at 21 bits so that 2**20 rows fit int64.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import sqrt

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mlray.errors import TrainingFailed
from mlray.training.columns import number_column, text_column
from mlray.training.labels import Labels, check_classes

GRID = 1 << 32
CHUNK = 1 << 20
MOST_DISTINCT = 1_000_000
"""Texts of a feature: 100 MB or so in the driver, of which a model reads `max_categories`."""
LARGEST = float(np.finfo(np.float64).max)


def squash(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """sign(x) * log1p(|x|); an infinity is taken as the largest finite double, NaN stays NaN."""
    finite = np.clip(values, -LARGEST, LARGEST)
    return np.copysign(np.log1p(np.abs(finite)), finite)


@dataclass(frozen=True, slots=True)
class Moments:
    """Of one number: usable values, missing ones, and exact sums of q = rint(squash(x) * 2**32)."""

    count: int = 0
    missing: int = 0
    total: int = 0
    squares: int = 0

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> "Moments":
        usable = values[~np.isnan(values)]
        total = squares = 0
        for start in range(0, len(usable), CHUNK):
            grid = np.rint(squash(usable[start : start + CHUNK]) * GRID).astype(np.int64)
            high, low = grid >> 21, grid & ((1 << 21) - 1)
            total += int(grid.sum())
            squares += (int((high * high).sum()) << 42) + (int((high * low).sum()) << 22) + int((low * low).sum())
        return cls(len(usable), len(values) - len(usable), total, squares)

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(
            self.count + other.count,
            self.missing + other.missing,
            self.total + other.total,
            self.squares + other.squares,
        )

    def mean(self) -> float:
        """Of the squashed values; 0 where there is none."""
        return self.total / (self.count * GRID) if self.count else 0.0

    def std(self) -> float:
        """Of the squashed values (population); 1 where they do not vary."""
        spread = self.count * self.squares - self.total * self.total
        return sqrt(spread / (self.count * GRID) ** 2) if spread > 0 else 1.0


@dataclass(slots=True)
class Statistics:
    """Of any set of rows: per part the rows, the labels, and of the training part the moments, categories and weights.

    bad_weights: negative, infinite or missing ones. content: the digest of all rows, see offline/content.py.
    Categories and classes are held as they are, MOST_DISTINCT of each at most: more are refused by `check_distinct`.
    """

    rows: Counter[int] = field(default_factory=Counter)
    labels: Labels = field(default_factory=Labels)
    bad_weights: int = 0
    positive_weights: int = 0
    content: tuple[int, int] = (0, 0)
    first: int | None = None
    last: int | None = None
    numbers: dict[str, Moments] = field(default_factory=dict)
    categories: dict[str, Counter[str]] = field(default_factory=dict)

    def has_value(self, name: str, kind: str) -> bool:
        """Whether a feature, a 'number' or a 'text', is known in any training row."""
        return bool(self.numbers[name].count if kind == "number" else self.categories[name])


def observe_weights(column: pa.ChunkedArray) -> tuple[int, int]:
    """How many are negative, infinite or missing, and how many are usable and not 0."""
    values = number_column(column)
    usable = np.isfinite(values) & (values >= 0)
    return int((~usable).sum()), int((usable & (values > 0)).sum())


def observe_categories(column: pa.ChunkedArray) -> Counter[str]:
    """How often each text occurs; null is not one."""
    counts = pc.value_counts(text_column(column).drop_null())
    return Counter(dict(zip(counts.field(0).to_pylist(), counts.field(1).to_pylist(), strict=True)))


def check_distinct(seen: Statistics) -> None:
    """TrainingFailed where a text feature has more distinct texts than one process should hold."""
    for name, counts in seen.categories.items():
        if len(counts) > MOST_DISTINCT:
            shown = ", ".join(sorted(counts)[:3])
            raise TrainingFailed(
                f"feature '{name}' has more than {MOST_DISTINCT:,} distinct texts in the training rows ({shown}, ...): "
                f"it names rows, not kinds of them; ignore it, or group its values in an on-demand function"
            )


def merge(many: Iterable[Statistics]) -> Statistics:
    """The statistics of the union of the rows, taken one after the other; refused while it grows, not afterwards."""
    whole = Statistics()
    for one in many:
        whole.rows.update(one.rows)
        whole.labels.add(one.labels)
        whole.bad_weights += one.bad_weights
        whole.positive_weights += one.positive_weights
        first, second = ((a + b) % (1 << 64) for a, b in zip(whole.content, one.content, strict=True))
        whole.content = (first, second)
        whole.first = min((t for t in (whole.first, one.first) if t is not None), default=None)
        whole.last = max((t for t in (whole.last, one.last) if t is not None), default=None)
        for name, moments in one.numbers.items():
            whole.numbers[name] = whole.numbers.get(name, Moments()) + moments
        for name, counts in one.categories.items():
            whole.categories.setdefault(name, Counter()).update(counts)
        check_distinct(whole)
        check_classes(whole.labels)
    return whole
