"""Slices: the rows of a table by the value of a column, or by the values of several columns crossed.

Text, booleans and integers of few values go by value, other numbers by quantiles; what is missing is a slice, too.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt
from numpy.typing import NDArray

from mlray.errors import SchemaError

MISSING, OTHER = "(missing)", "(other)"
MOST_VALUES, FEW_VALUES, BINS = 100, 20, 4


@dataclass(frozen=True, slots=True)
class Slices:
    """codes: (n,) the number of each row's slice; names: of all slices, also of those that no row is in."""

    column: str
    codes: NDArray[np.int64]
    names: tuple[str, ...]

    @property
    def rows(self) -> NDArray[np.int64]:
        """How many rows each slice has."""
        return np.bincount(self.codes, minlength=len(self.names)).astype(np.int64)

    def each(self) -> Iterator[tuple[str, NDArray[np.int64]]]:
        """Name and row numbers, slice by slice."""
        order = np.argsort(self.codes, kind="stable")
        ends = np.cumsum(self.rows)
        for name, start, end in zip(self.names, np.concatenate([[0], ends[:-1]]), ends, strict=True):
            yield name, order[start:end]


def sliced(name: str, column: pa.ChunkedArray, bins: int | None = None) -> Slices:
    """The rows by one column. bins: a number by that many quantiles, [low, high) each; None: what suits its values.

    Of more than 100 values the most frequent have slices of their own and the rest is one, `(other)`.
    """
    kind = column.type
    if pt.is_decimal(kind):
        column, kind = column.cast(pa.float64()), pa.float64()
    if pt.is_floating(kind) or pt.is_integer(kind):
        values = np.asarray(column.cast(pa.float64(), safe=False).to_numpy(), dtype=np.float64)
        if bins is not None or pt.is_floating(kind) or len(np.unique(values[~np.isnan(values)])) > FEW_VALUES:
            return _by_quantile(name, values, BINS if bins is None else bins)
    return _by_value(name, column)


def crossed(many: Sequence[Slices]) -> Slices:
    """Every combination of the slices, also those without a row."""
    codes, names = np.zeros(len(many[0].codes), np.int64), []
    for one in many:
        codes = codes * len(one.names) + one.codes
    for combination in product(*(one.names for one in many)):
        names.append(", ".join(combination))
    return Slices(" x ".join(one.column for one in many), codes, tuple(names))


def _by_value(name: str, column: pa.ChunkedArray) -> Slices:
    try:
        texts = column.cast(pa.large_string())
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid) as error:
        raise SchemaError(f"slices: column '{name}' is {column.type}, which cannot be told apart by text") from error
    counts = pc.value_counts(texts.drop_null())
    known = dict(zip(counts.field(0).to_pylist(), counts.field(1).to_pylist(), strict=True))
    names = sorted(sorted(known, key=lambda text: (-known[text], text))[:MOST_VALUES])
    place = pc.fill_null(pc.index_in(texts, value_set=pa.array(names, pa.large_string())), len(names)).to_numpy()
    codes = np.where(texts.is_null().to_numpy(), len(names) + 1, place).astype(np.int64)
    return _without_unused(Slices(name, codes, (*names, OTHER, MISSING)), keep=len(names))


def _by_quantile(name: str, values: NDArray[np.float64], bins: int) -> Slices:
    known = values[~np.isnan(values)]
    edges = np.unique(np.quantile(known, np.arange(1, bins) / bins, method="lower")) if len(known) else np.zeros(0)
    edges = edges[edges > known.min()] if len(known) else edges
    ends = [f"{edge:g}" for edge in edges]
    names = ["all"] if not ends else [f"< {ends[0]}", *(f"{a} to {b}" for a, b in pairwise(ends))]
    names += [f">= {ends[-1]}"] if ends else []
    codes = np.where(np.isnan(values), len(names), np.searchsorted(edges, values, side="right")).astype(np.int64)
    return _without_unused(Slices(name, codes, (*names, MISSING)), keep=len(names))


def _without_unused(slices: Slices, keep: int) -> Slices:
    """Without the slices from `keep` on that no row is in; they are `(other)` and `(missing)`."""
    used = [i for i, rows in enumerate(slices.rows.tolist()) if i < keep or rows]
    place = np.full(len(slices.names), -1, np.int64)
    place[used] = np.arange(len(used))
    return Slices(slices.column, place[slices.codes], tuple(slices.names[i] for i in used))
