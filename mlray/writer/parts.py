"""Calls of any size: one with more rows than may wait is cut into parts, each a call of its own."""

import time
from collections.abc import Callable, Iterator

import pyarrow as pa

from mlray.errors import Busy
from mlray.features.source import DeltaSource
from mlray.ingest import Ingested

Put = Callable[[DeltaSource, pa.Table, str | None], Ingested]
"""Takes the rows of one call, and an idempotency key, and gives what they added."""
ROWS = 1_000_000
"""Rows of a part."""


def ingest_parts(
    put: Put,
    source: DeltaSource,
    rows: pa.Table,
    key: str | None,
    most: int = ROWS,
    pause: Callable[[float], None] = time.sleep,
) -> Ingested:
    """What all parts added, under the version of the last that added any.

    Each part has a key of its own, made of the call's: a repeated call adds what is not there yet. Where a later part
    is not taken now, it waits.
    """
    if rows.num_rows <= most:
        return put(source, rows, key)
    done = [put(source, rows.slice(0, most), _part(key, 0))]
    for number, part in _further(rows, most):
        done.append(_patient(put, source, part, _part(key, number), pause))
    versions = [one.version for one in done if one.version is not None]
    views = dict.fromkeys(view for one in done for view in one.views)
    return Ingested(source.name, sum(one.rows for one in done), max(versions, default=None), tuple(views))


def _further(rows: pa.Table, most: int) -> Iterator[tuple[int, pa.Table]]:
    for number, start in enumerate(range(most, rows.num_rows, most), 1):
        yield number, rows.slice(start, most)


def _part(key: str | None, number: int) -> str | None:
    """The first part has the call's own key, so that no other call may use it."""
    return key if key is None or not number else f"{key}\n{number}"


def _patient(
    put: Put, source: DeltaSource, rows: pa.Table, key: str | None, pause: Callable[[float], None]
) -> Ingested:
    while True:
        try:
            return put(source, rows, key)
        except Busy as error:
            pause(error.retry_after)
