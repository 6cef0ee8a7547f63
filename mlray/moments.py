"""What a caller gives as a time, as the instants that features are asked at. The one place that looks at the clock for
`Platform`.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa

from mlray.aggregation.window import Instants
from mlray.errors import TimeError
from mlray.features.types import INSTANT, instants

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def now() -> int:
    """Microseconds UTC."""
    return of("now", datetime.now(UTC))


def of(argument: str, moment: datetime) -> int:
    """Microseconds UTC of an aware datetime; TimeError, which names the argument, for a naive one."""
    if moment.tzinfo is None:
        raise TimeError.naive(argument, moment)
    return (moment - _EPOCH) // timedelta(microseconds=1)


def instants_of(at: Any, rows: int) -> Instants:
    """One instant per row. at: an aware datetime, one per row (a sequence with None for null, or an Arrow array), or
    None for now; TimeError for anything else.
    """
    if at is None or isinstance(at, datetime):
        moment = np.full(rows, now() if at is None else of("at", at))
        return Instants(moment, moment, np.ones(rows, dtype=np.bool_))
    if not isinstance(at, pa.Array | pa.ChunkedArray):
        at = pa.array([None if t is None else of("at", t) for t in _each(at)], pa.int64()).cast(INSTANT)
    if len(at) != rows:
        raise TimeError(f"at has {len(at)} instants for {rows} rows; give one, or one per row")
    return instants(at, "at")


def _each(at: Any) -> Sequence[datetime | None]:
    if not isinstance(at, Sequence) or isinstance(at, str) or not all(isinstance(t, datetime | None) for t in at):
        raise TimeError(f"at={at!r}; give an aware datetime, a list with one per row, or an Arrow array of timestamps")
    return at
