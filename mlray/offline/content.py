"""A digest of a training set's rows, whatever their order: computed block by block, as Ray tasks."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from mlray.offline.fingerprint import unordered

LANES = ("lane_0", "lane_1")


def spelt(parts: Iterable[tuple[int, int]]) -> str:
    """The sum of the parts' digests, hexadecimal."""
    lanes = [0, 0]
    for part in parts:
        lanes = [(lane + own) % (1 << 64) for lane, own in zip(lanes, part, strict=True)]
    return f"{lanes[0]:016x}{lanes[1]:016x}"


def content_digest(dataset: Any, columns: Sequence[str]) -> tuple[str, int]:
    """The digest of these columns of all rows of a ray.data.Dataset, which is executed, and the number of rows."""
    parts = dataset.select_columns(list(columns)).map_batches(
        _content, batch_format="pyarrow", batch_size=None, fn_kwargs={"columns": list(columns)}
    )
    found = list(parts.iter_rows())
    return spelt((int(row["lane_0"]), int(row["lane_1"])) for row in found), sum(int(row["rows"]) for row in found)


def _content(block: pa.Table, columns: Sequence[str]) -> pa.Table:
    lanes = unordered(block.select(list(columns)))
    words = {name: pa.array(np.array([lane], dtype=np.uint64)) for name, lane in zip(LANES, lanes, strict=True)}
    return pa.table({**words, "rows": pa.array([block.num_rows])})
