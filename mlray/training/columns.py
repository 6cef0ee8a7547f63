"""Columns of a table as training reads them."""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


def number_column(column: pa.ChunkedArray) -> NDArray[np.float64]:
    """(n,) float64 of a numeric, boolean or all-null column; null is NaN."""
    return np.ascontiguousarray(column.cast(pa.float64(), safe=False).to_numpy(), dtype=np.float64)


def text_column(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A string, large_string, dictionary or all-null column as large_string."""
    return column.cast(pa.large_string())
